"""The catalogue of optimizations: found by files alone, without JAX; the table of the README is made of it."""

from pathlib import Path

import pytest

from ryot_jax.kernels.catalogue import ops
from ryot_jax.kernels.declaration import Implementation, Modules
from ryot_jax.optimizations import OPTIMIZATIONS, KernelPlan, _table

README = Path(__file__).parents[1] / "README.md"


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
        "from ryot_jax.config import get_default\n"
        "from ryot_jax.optimizations import OPTIMIZATIONS\n"
        "assert set(get_default().optimizations) == {o.name for o in OPTIMIZATIONS}\n"
        "assert all(o.choices[:2] == ('off', 'auto') for o in OPTIMIZATIONS)\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules",
    )


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
