"""The catalogue of optimizations: found by files alone, without JAX; the table of the README is made of it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ryot_jax.kernels.catalogue import ops
from ryot_jax.kernels.declaration import Implementation, Modules
from ryot_jax.optimizations import BY_NAME, OPTIMIZATIONS, KernelPlan, _table

README = Path(__file__).parents[1] / "README.md"
PACKAGE = Path(__file__).parents[1] / "ryot_jax"


def test_the_readmes_table_of_switches_is_current():
    text = README.read_text(encoding="utf-8")
    assert _table.updated(text) == text, "run `python -m ryot_jax.optimizations`"
    assert text.count("| `optimizations.") == len(OPTIMIZATIONS)


def test_without_marks_no_table_is_written():
    with pytest.raises(ValueError, match="the marks"):
        _table.updated("# No table here")
    with pytest.raises(ValueError, match="the marks"):
        _table.updated(f"{_table.END} {_table.BEGIN}")


def test_names_and_choices_are_known_without_jax(run_python):
    run_python(
        "-c",
        "import sys\n"
        "from ryot_jax.optimizations import OPTIMIZATIONS\n"
        "assert all(o.choices[:2] == ('off', 'auto') for o in OPTIMIZATIONS)\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules\n"
        "from ryot_jax.config import get_default\n"
        "assert set(get_default().optimizations) == {o.name for o in OPTIMIZATIONS}\n"
        "assert 'jax' not in sys.modules",
    )


# Where the name of an optimization is that of something else, or a rule is about one that a field of the config is for.
OTHER_MEANINGS = {
    "config/rules.py": {"qat": "compression.qat_fraction is refused where it leaves no step to it"},
    "config/tree.py": {"norm": "model.norm", "dropout": "model.dropout", "optimizer": "training.optimizer"},
    "model/accounting.py": {
        "embedding": "a part of the model",
        "attention": "a part of the model",
        "norm": "the end of a parameter's name",
        "optimizer": "the memory of its state",
        "activations": "the memory of all arrays that the backward pass needs",
    },
    "model/config.py": {"norm": "model.norm", "dropout": "model.dropout"},
    "model/gpt2_layout.py": {
        "norm": "model.norm",
        "dropout": "model.dropout",
        "attention": "a parameter's path",
        "embedding": "a parameter's path",
    },
    "model/step_weights.py": {"embedding": "a parameter's path", "attention": "a parameter's path"},
    "training/optimizer.py": {"optimizer": "training.optimizer"},
    "training/parallel.py": {"dispatch": "the remedy of an error about its scan"},
    "training/recipe.py": {"optimizer": "a recipe may change training.optimizer, and leaves its kernel to 'auto' then"},
    "training/rules.py": {"optimizer": "training.optimizer"},
    "training/steps.py": {"qat": "the docstring of a function that it needs"},
}
_PLANS = {"KernelPlan", "replace", "resolve", "resolve_unmeasured", "resolve_to_rounding", "dict"}


def _named(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(the optimization that is named, whether it is the key of a plan) wherever a module names one."""
    keys = {
        id(node.slice)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "plan"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name in (node.value, *re.findall(r"optimizations\.(\w+)", node.value)):
                if name in BY_NAME:
                    yield name, id(node) in keys
        elif (
            isinstance(node, ast.Attribute)
            and node.attr in BY_NAME
            and ast.unparse(node.value).endswith("optimizations")
        ):
            yield node.attr, False
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _PLANS:
            yield from ((word.arg, False) for word in node.keywords if word.arg in BY_NAME)


def _misplaced(path: str, text: str) -> set[str]:
    """The optimizations that a module names which is neither their own nor a place where they are called."""
    own = Path(path).parts[2:3] if path.startswith("kernels/ops/") else ()
    if path.startswith("rewriting/patterns/"):
        own = (Path(path).stem,)
    if path.startswith("optimizations/"):
        return set()
    is_caller = path.startswith(("model/", "training/"))
    return {name for name, is_key in _named(ast.parse(text)) if name not in own and not (is_caller and is_key)}


def test_an_optimization_is_named_in_its_own_files_and_where_it_is_called_alone():
    found = {}
    for module in PACKAGE.rglob("*.py"):
        path = module.relative_to(PACKAGE).as_posix()
        if misplaced := _misplaced(path, module.read_text(encoding="utf-8")) - set(OTHER_MEANINGS.get(path, ())):
            found[path] = misplaced
    assert not found, "give the declaration what others need to know of it"


def test_what_is_excused_from_that_is_there():
    for path, reasons in OTHER_MEANINGS.items():
        text = (PACKAGE / path).read_text(encoding="utf-8")
        assert set(reasons) <= {name for name, _ in _named(ast.parse(text))} and all(reasons.values()), path


@pytest.mark.parametrize(
    ("path", "text", "is_misplaced"),
    [
        ("runs/subject.py", "session.resolve(dropout='off')", True),
        ("runs/tuning.py", "KernelPlan(dropout='hash')", True),
        ("comparison/arms.py", "'dropout' in names", True),
        ("comparison/arms.py", "raise E(f'optimizations.dropout = {x}')", True),
        ("comparison/arms.py", "plan['dropout']", True),
        ("config/rules.py", "config.optimizations.dropout", True),
        ("training/loop.py", "refusals['dropout'] = ''", True),
        ("kernels/ops/norm/api.py", "'dropout'", True),
        ("kernels/ops/dropout/api.py", "'dropout'", False),
        ("model/layers.py", "dropout(x, implementation=plan['dropout'])", False),
        ("runs/subject.py", "model.dropout + dropout(x, dropout=0.5)", False),
    ],
)
def test_a_name_in_another_place_is_found(path, text, is_misplaced):
    assert (_misplaced(path, text) == {"dropout"}) == is_misplaced == bool(_misplaced(path, text))


def test_the_modules_of_a_gpus_kernels_are_imported_with_their_first_call_alone(run_python):
    run_python(
        "-c",
        "import sys\n"
        "from ryot_jax.kernels import Spec\n"
        "from ryot_jax.optimizations import OPTIMIZATIONS, resolve\n"
        "spec = Spec('cpu', 1, 'float32', 1024, 32, 64, 100, 16, 2)\n"
        "resolve({o.name: 'auto' for o in OPTIMIZATIONS}, spec=spec)\n"
        "assert not [m for m in sys.modules if m.startswith(('jax.experimental.pallas.', 'jax._src.pallas.mosaic'))]",
    )


def test_a_plan_is_a_mapping_of_all_optimizations_and_cannot_be_changed():
    plan = KernelPlan(attention="xla")
    assert list(plan) == [o.name for o in OPTIMIZATIONS] and plan["attention"] == "xla"
    assert {name: chosen for name, chosen in plan.items() if name != "attention"} == {
        o.name: o.reference for o in OPTIMIZATIONS if o.name != "attention"
    }
    assert plan == KernelPlan().replace(attention="xla") != KernelPlan()
    assert len({plan, KernelPlan(attention="xla"), KernelPlan()}) == 2
    assert repr(plan) == "KernelPlan(attention='xla')"
    with pytest.raises(TypeError):
        plan["attention"] = "cpu"
    with pytest.raises(TypeError, match="no such optimization: convolution"):
        KernelPlan(convolution="xla")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package with three implementations and what is none."""
    folder = tmp_path / "declared"
    folder.mkdir()
    declaration = (
        "from ryot_jax.kernels.declaration import Implementation\nIMPLEMENTATION = Implementation(where={!r})\n"
    )
    for name in ("__init__", "reference", "second", "first", "api", "_helper"):
        (folder / f"{name}.py").write_text(declaration.format(name))
    monkeypatch.syspath_prepend(tmp_path)
    __import__("declared")
    return "declared"


def test_an_implementation_is_a_module_and_the_reference_comes_first(package):
    assert list(Modules(package)) == ["reference", "first", "second"], "in alphabetical order where none is given"
    modules = Modules(package, order=("second",))
    assert list(modules) == ["reference", "second", "first"] and len(modules) == 3
    assert modules["second"] == Implementation(where="second") and "api" not in modules
    with pytest.raises(KeyError):
        modules["_helper"]
    with pytest.raises(ValueError, match="has no implementation third"):
        list(Modules(package, order=("third",)))


def test_every_op_says_what_it_exports():
    import ryot_jax.kernels

    for op in ops():
        assert op.functions
        for name in op.functions:
            assert getattr(ryot_jax.kernels, name) is getattr(op.api, name)
    with pytest.raises(AttributeError, match="no attribute 'convolution'"):
        _ = ryot_jax.kernels.convolution
