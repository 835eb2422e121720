"""The examples of docs/adding apply to this revision, and what they add is known everywhere without another edit."""

import contextlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ("op", "implementation", "criterion", "command", "instruction_set")


def _diff(example: str) -> Path:
    return ROOT / "docs" / "adding" / f"{example}.diff"


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture
def applied(tmp_path):
    """`applied(example, *paths)`: a copy of these paths of the repository with an example, which is taken out after."""

    @contextlib.contextmanager
    def apply(example: str, *paths: str) -> Iterator[Path]:
        for path in paths:
            if (ROOT / path).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.so")
                shutil.copytree(ROOT / path, tmp_path / path, ignore=ignored)
            else:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, tmp_path / path)
        before = _files(tmp_path)
        subprocess.run(["git", "apply", str(_diff(example))], cwd=tmp_path, check=True)
        assert _files(tmp_path) != before
        yield tmp_path
        subprocess.run(["git", "apply", "-R", str(_diff(example))], cwd=tmp_path, check=True)
        assert _files(tmp_path) == before

    return apply


def _touched(example: str) -> dict[str, tuple[int, int]]:
    """Lines added and deleted by file."""
    done = subprocess.run(["git", "apply", "--numstat", str(_diff(example))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {path: (int(added), int(deleted)) for added, deleted, path in rows}


def _made(example: str) -> set[str]:
    """The files that an example makes."""
    return {path for path in _touched(example) if not (ROOT / path).exists()}


def test_an_op_is_one_folder_and_its_calls():
    made, touched = _made("op"), set(_touched("op"))
    assert len({Path(path).parent for path in made}) == 1
    assert all(Path(path).parts[:3] == ("ryot_jax", "kernels", "ops") for path in made)
    assert touched - made and all(path.startswith(("ryot_jax/model/", "ryot_jax/training/")) for path in touched - made)


@pytest.mark.parametrize(
    ("example", "folder"),
    [("implementation", "ryot_jax/kernels/ops/norm"), ("command", "ryot_jax/commands")],
)
def test_an_implementation_and_a_command_are_one_file_each(example, folder):
    [path] = _touched(example)
    assert _made(example) == {path} and str(Path(path).parent) == folder


def test_a_criterion_is_one_object():
    touched = _touched("criterion")
    assert list(touched) == ["ryot_jax/comparison/verdict/rules.py"] and not _made("criterion")
    [(_, deleted)] = touched.values()
    added = [line[1:] for line in _diff("criterion").read_text().splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert deleted == 0 and added[0] == "    Rule(" and added[-1] == "    ),"
    assert sum(line.startswith("    Rule(") for line in added) == 1


def test_an_instruction_set_is_one_target_and_at_most_a_micro_kernel():
    made = _made("instruction_set")
    assert set(_touched("instruction_set")) == made
    targets = {path for path in made if Path(path).parent.name == "targets"}
    assert len(targets) == 1 and len(made - targets) <= 1
    assert all(re.search(r"/core/\w+_kernel\.h$", path) for path in made - targets)


def test_the_page_says_what_each_example_touches():
    page = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[.*?\]\(adding/(\w+)\.diff\) \| (\d+) \| (.*) \|$", page, flags=re.MULTILINE)
    assert [example for example, _, _ in rows] == list(EXAMPLES)
    assert {path.stem for path in (ROOT / "docs" / "adding").iterdir()} == set(EXAMPLES)
    for example, lines, files in rows:
        assert int(lines) == len(_diff(example).read_text(encoding="utf-8").splitlines()), example
        named, touched = re.findall(r"`(\S+)`", files), _touched(example)
        assert all(any(path == name or path.startswith(f"{name}/") for name in named) for path in touched), example
        assert all(any(path == name or path.startswith(f"{name}/") for path in touched) for name in named), example


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
assert resolve({{op: "auto"}}, spec=spec).plan[op] == "reference"
winner, measured = tuning.tune(BY_NAME[op], spec, ["reference", name], seconds=0.0)
assert not measured[name].failure and measured[name].milliseconds > 0
[row] = [row for row in _table.table().splitlines() if row.startswith(f"| `optimizations.{{op}}` |")]
assert f"`{{name}}`" in row
"""

# Of the tests that an implementation inherits, those of its numbers; and the one that finds names of ops elsewhere.
INHERITED = ("tests/kernels/ops/test_every_implementation.py", "tests/test_optimizations.py")


@pytest.mark.parametrize(("example", "op", "name"), [("op", "sinusoids", "table"), ("implementation", "norm", "anew")])
def test_an_op_and_an_implementation_are_known_everywhere(applied, run_python, example, op, name):
    beside = ("pyproject.toml", "tests/conftest.py", "tests/kernels/conftest.py", "tests/kernels/ops/base.py")
    with applied(example, "ryot_jax", "README.md", *beside, *INHERITED) as copy:
        here = {"environment": {"PYTHONPATH": str(copy)}, "cwd": copy}
        run_python(KNOWN.format(op=op, name=name), **here)
        numbers = f"(outcomes_and_gradients and {op}-{name}) or its_own_files"
        options = ("-q", "-p", "no:cacheprovider", "-k", numbers)
        done = run_python("-m", "pytest", *options, *INHERITED, **here)
        assert re.search(r"^3 passed", done.stdout, flags=re.MULTILINE), done.stdout


CRITERION = """
import pytest
from ryot_jax.comparison import estimands, results
from ryot_jax.comparison.criteria import EXIT_CODES
from ryot_jax.comparison.schema import Settings

MADE = results.ArmFacts


@pytest.mark.parametrize(
    ("optimized", "verdict", "exit_code"), [(2**19, "PASS", 0), (2**21, "FAIL", 3), (None, "INCONCLUSIVE", 4)]
)
def test_memory_decides(make_arms, assemble, monkeypatch, tmp_path, optimized, verdict, exit_code):
    memory = {"baseline": 2**20, "optimized": optimized}
    monkeypatch.setattr(results, "ArmFacts", lambda **facts: MADE(**{**facts, "memory_bytes": memory[facts["name"]]}))
    found = assemble(make_arms())
    [criterion] = [one for one in found.criteria if one.name == "memory_not_higher"]
    assert criterion.verdict == found.verdict == verdict and EXIT_CODES[found.verdict] == exit_code
    assert all(one.verdict == "PASS" for one in found.criteria if one is not criterion)
    assert ("524,288 bytes beside 1,048,576 bytes" == criterion.actual) == (verdict == "PASS")
    results.write(tmp_path / "results.json", found)
    assert criterion in results.read(tmp_path / "results.json").criteria
    [stated] = [one for one in found.estimands.items if one.name == "memory"]
    assert stated.decides == "memory_not_higher" and stated.criterion == "the optimized arm's at most the baseline's"


def test_memory_is_stated_where_arms_are_compared():
    for arms in (1, 2):
        found = estimands.describe_estimands(Settings(0.1, 0.02, "bigram", arms=arms), statistical=False)
        assert [one.decides for one in found if one.name == "memory"] == ["memory_not_higher" if arms == 2 else ""]
"""


def test_a_criterion_is_stated_judged_written_and_decides(applied, run_python):
    with applied("criterion", "ryot_jax", "pyproject.toml", "tests/comparison/conftest.py") as copy:
        test = copy / "tests" / "comparison" / "test_memory.py"
        test.write_text(CRITERION, encoding="utf-8")
        options = ("-q", "-p", "no:cacheprovider", "tests/comparison/test_memory.py")
        done = run_python("-m", "pytest", *options, environment={"PYTHONPATH": str(copy)}, cwd=copy)
        assert "4 passed" in done.stdout
        test.unlink()


def test_a_command_is_in_the_help_text_and_runs(applied, run_python):
    with applied("command", "ryot_jax") as copy:
        here = {"environment": {"PYTHONPATH": str(copy)}, "cwd": copy}
        text = run_python("-m", "ryot_jax.main", "--help", **here).stdout
        assert "  ryot runs [--workdir=DIR]\n" in text
        assert "\nruns\n  Lists the run directories, the oldest first.\n  --workdir=DIR " in text
        for name, files in {"1-first": ("config.json", "results.json"), "2-second": ("config.json",)}.items():
            for file in files:
                (copy / "made" / name).mkdir(parents=True, exist_ok=True)
                (copy / "made" / name / file).write_text("{}", encoding="utf-8")
        found = run_python("-m", "ryot_jax.main", "runs", f"--workdir={copy / 'made'}", **here)
        assert found.stdout == "1-first  finished\n2-second  not finished\n"
        shutil.rmtree(copy / "made")
        refused = run_python("-m", "ryot_jax.main", "runs", "--workdirs=made", expect=2, **here)
        assert "runs has no option --workdirs; did you mean workdir?" in refused.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the example is an instruction set of x86-64")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_an_instruction_set_compiles_is_listed_in_its_place_and_computes(applied):
    kernels = "ryot_jax/kernels/cpu"
    with applied("instruction_set", kernels, "tests/adding.cc") as copy:
        [target] = _made("instruction_set")
        sources = [target, f"{kernels}/targets/avx2.cc", *sorted(map(str, (copy / kernels / "core").glob("*.cc")))]
        program = copy / "adding"
        options = ("-std=c++17", "-O0", "-w", "-fno-strict-aliasing", f"-I{kernels}")
        built = subprocess.run(
            ["g++", *options, *sources, "tests/adding.cc", "-o", str(program)], cwd=copy, capture_output=True, text=True
        )
        assert built.returncode == 0, built.stderr
        ran = subprocess.run([program], capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (0, "avx2\nsse4\n")
        assert target in _sources_of_setup(copy), "setup.py takes it as it is there"
        program.unlink()


def _sources_of_setup(copy: Path) -> list[str]:
    """The sources of the extension that setup.py makes of a copy of the package."""
    script = (
        "import runpy, setuptools\n"
        "setuptools.setup = lambda **_: None\n"
        "print(*runpy.run_path({!r})['kernels']()[0].sources)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script.format(str(ROOT / "setup.py"))], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
