"""Without a C++ compiler the package is built without the kernels, says so, and works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the package, built in place where no program can be found, and what the build said."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, copy)
    shutil.copytree(REPOSITORY / "ryot_jax", copy / "ryot_jax", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return copy, run(copy, "setup.py", "build_ext", "--inplace")


def run(folder, *words):
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment | {"PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_build_succeeds_and_makes_no_library(built):
    copy, done = built
    assert done.returncode == 0, done.stderr
    assert "building extension" in done.stdout + done.stderr, "it was tried"
    assert not list((copy / "ryot_jax/kernels/cpu").glob("*.so"))


def test_the_doctor_says_so_and_what_takes_the_kernels_place(built):
    done = run(built[0], "-m", "ryot_jax.main", "doctor")
    assert done.returncode == 0, done.stderr
    assert "the C++ kernels were not built (install a C++ compiler" in done.stdout
    assert "attention: xla (" in done.stdout


def test_an_op_that_is_asked_for_by_name_is_refused(built):
    program = "import jax.numpy as jnp; from ryot_jax.kernels import dense\n"
    program += "print(dense(jnp.ones((2, 3)), jnp.ones((3, 4)), implementation='xla').shape)\n"
    program += "dense(jnp.ones((2, 3)), jnp.ones((3, 4)), implementation='cpu')\n"
    done = run(built[0], "-c", program)
    assert "(2, 4)" in done.stdout
    assert done.returncode == 1 and "NotImplementedError: the C++ kernels were not built" in done.stderr
