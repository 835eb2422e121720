"""The examples of docs/adding apply to this revision, and what they add is known everywhere without another edit."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

KNOWN = """
import sys
from ryot_jax.config import get_default
from ryot_jax.config.rules import CHOICES
op, name = {op!r}, {name!r}
assert get_default().optimizations[op] == "auto" and name in CHOICES[f"optimizations.{{op}}"]
assert "jax" not in sys.modules
from ryot_jax.kernels import Spec
from ryot_jax.kernels.choice import tuning
from ryot_jax.optimizations import BY_NAME, KernelPlan, _table, resolve
assert op in KernelPlan() and BY_NAME[op].implementations[name].probe is not None
spec = Spec("cpu", 1, "float32", 64, 32, 64, 100, 16, 2)
assert resolve({{op: name}}, spec=spec).plan[op] == name
winner, measured = tuning.tune(BY_NAME[op], spec, seconds=0.0)
assert not measured[name].failure and measured[name].milliseconds > 0
text = open("README.md", encoding="utf-8").read()
assert _table.updated(text) == text
"""


@pytest.mark.parametrize(("example", "op", "name"), [("op", "sinusoidal", "table"), ("implementation", "norm", "anew")])
def test_an_example_applies_and_is_all_that_it_takes(tmp_path, run_python, example, op, name):
    shutil.copytree(ROOT / "ryot_jax", tmp_path / "ryot_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    diff = ROOT / "docs" / "adding" / f"{example}.diff"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    subprocess.run(["git", "apply", str(diff)], cwd=tmp_path, check=True)
    run_python("-c", KNOWN.format(op=op, name=name), environment={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    subprocess.run(["git", "apply", "-R", str(diff)], cwd=tmp_path, check=True)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert after == before
