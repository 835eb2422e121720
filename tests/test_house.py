"""The house's order: which room may know which, sizes of files and functions, docstrings that stand alone.

It reads the sources alone, without importing the package.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SLOW_FILES

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "ryot_jax"
FILE_LINES, FUNCTION_LINES = 300, 60

# A room may import those of later rows; those of its own row as BESIDE allows.
ROWS = (
    ("main",),
    ("commands",),
    ("cli",),
    ("runs",),
    ("report",),
    ("comparison",),
    ("config",),
    ("training",),
    ("model", "decoding"),
    ("optimizations", "rewriting"),
    ("kernels", "compression", "scaling", "data"),
    ("machine", "runtime"),
    ("version",),  # the package's own __init__
)
BESIDE = {
    ("decoding", "model"): "decoding runs the model's forward pass",
    ("machine", "runtime"): "errors and files",
    ("runtime", "machine"): "the manifest of a run describes the machine",
}

# Exceptions, each with its reason. An entry that is no longer needed is a failure: these lists only shrink.
ROOM_EXCEPTIONS: dict[tuple[str, str], str] = {
    ("comparison", "report"): "the outcome of `compare` writes its own report when it is asked to",
    ("version", "rewriting"): "`from ryot_jax import optimize`, imported when it is asked for",
}
LONG_FILES: dict[str, str] = {}
_MOSAIC = "one Pallas kernel: its references, barriers and pipeline are of one scope"
LONG_FUNCTIONS: dict[str, str] = {
    "config.tree.get_default": "data: one tree, read from top to bottom",
    "kernels.ops.attention._mosaic_backward.gradient_of_queries": _MOSAIC,
    "kernels.ops.attention._mosaic_backward.gradients_of_keys": _MOSAIC,
    "kernels.ops.attention._mosaic_forward.forward": _MOSAIC,
    "kernels.ops.linear_cross_entropy._mosaic_kernel._kernel": _MOSAIC,
    "kernels.ops.norm._mosaic_backward._kernel": _MOSAIC,
}
UNFINISHED = ("What ", "Of ", "That ")


def _modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = _modules()


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "version"


def _imports(module: str, *, for_types: bool = True) -> set[str]:
    """The package's modules that one imports, in functions too, and under TYPE_CHECKING unless not `for_types`."""
    found: set[str] = set()
    for node in _nodes(MODULES[module], for_types=for_types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports are not followed here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names if node.module in MODULES}
    return found - {module}


def _nodes(tree: ast.AST, *, for_types: bool) -> Iterator[ast.AST]:
    """All nodes of a tree; those under `if TYPE_CHECKING` only `for_types`."""
    for node in ast.iter_child_nodes(tree):
        if for_types or not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from _nodes(node, for_types=for_types)


IMPORTS = {module: _imports(module) for module in MODULES}


def test_every_room_has_its_row():
    rows = [room for row in ROWS for room in row]
    assert len(rows) == len(set(rows))
    assert {_room(module) for module in MODULES} <= set(rows)


def test_imports_point_one_way():
    place = {room: number for number, row in enumerate(ROWS) for room in row}
    wrong: dict[tuple[str, str], list[str]] = {}
    for module, imported in IMPORTS.items():
        for other in imported:
            rooms = _room(module), _room(other)
            if rooms[0] != rooms[1] and place[rooms[0]] >= place[rooms[1]] and rooms not in BESIDE:
                wrong.setdefault(rooms, []).append(f"{module} imports {other}")
    assert {rooms: lines for rooms, lines in wrong.items() if rooms not in ROOM_EXCEPTIONS} == {}
    assert set(ROOM_EXCEPTIONS) - set(wrong) == set(), "in order: take these out of ROOM_EXCEPTIONS"


@pytest.mark.parametrize("room", ["kernels", "compression", "scaling"])
def test_the_lower_rooms_know_nothing_of_models_training_and_comparison(room):
    """Said once more than by the rows, as it is what others build on."""
    above = {"training", "model", "decoding", "comparison", "runs", "commands", "config", "report"}
    found = {
        f"{module} imports {other}"
        for module, imported in IMPORTS.items()
        if _room(module) == room
        for other in imported
        if _room(other) in above
    }
    assert found == set()


def test_no_module_imports_itself_through_others():
    circle = _circle({module: _imports(module, for_types=False) for module in MODULES})
    assert circle is None, " imports ".join(circle)


def _circle(graph: dict[str, set[str]]) -> list[str] | None:
    # A package's name stands for its `__init__`: what that imports from its own modules is no circle by itself.
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return None


def test_a_circle_is_found():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set(_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) or []) == set("abc")


def _sources() -> Iterator[Path]:
    for ending in ("py", "cc", "h", "inc"):
        yield from PACKAGE.rglob(f"*.{ending}")


def test_no_file_is_long():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in _sources()}
    long = {name: count for name, count in lines.items() if count > FILE_LINES}
    assert {name: count for name, count in long.items() if name not in LONG_FILES} == {}
    assert set(LONG_FILES) - set(long) == set(), "short by now: take these out of LONG_FILES"


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods by name; a function in a function counts with the one around it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
        else:
            yield from _functions(node, f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, less those of the docstring."""
    documented = ast.get_docstring(function) is not None
    docstring = function.body[0].end_lineno - function.body[0].lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_no_function_is_long():
    long = {
        f"{module}.{name}".removeprefix("ryot_jax."): length
        for module, tree in MODULES.items()
        for name, function in _functions(tree)
        if (length := _length(function)) > FUNCTION_LINES
    }
    assert {name: length for name, length in long.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) - set(long) == set(), "short by now: take these out of LONG_FUNCTIONS"


def _docstrings(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Public names (of modules, classes, functions and methods; nothing inside functions) and their docstrings."""
    if text := ast.get_docstring(tree):
        yield prefix, text
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _DEFINITIONS) and not node.name.startswith("_"):
            yield from _docstrings(node, f"{prefix}.{node.name}")


def test_a_public_docstring_stands_alone():
    found = [
        f"{name}: {text.splitlines()[0]}"
        for module, tree in MODULES.items()
        for name, text in _docstrings(tree, module)
        if text.startswith(UNFINISHED)
    ]
    assert found == []


@pytest.mark.parametrize("module", ["ryot_jax.config", "ryot_jax.cli"])
def test_config_and_command_line_load_without_jax(module, run_python):
    """The allocator and its environment are set before JAX is imported."""
    loaded = run_python(f"import sys, {module}; print(*sorted(sys.modules))").stdout.split()
    assert module in loaded and {"jax", "jaxlib", "flax", "optax"}.isdisjoint(loaded)


def test_the_help_text_loads_no_jax(run_python):
    program = "import sys\nfrom ryot_jax.main import console\nsys.argv = ['ryot', '--help']\n"
    program += "try: console()\nexcept SystemExit: pass\nfinally: print('jax' in sys.modules)\n"
    said = run_python(program).stdout
    assert "--config" in said and said.splitlines()[-1] == "False"


def test_the_slow_files_are_there():
    assert [name for name in SLOW_FILES if not (REPOSITORY / "tests" / name).exists()] == []


def test_the_comparison_starts_no_threads_of_pandas(run_python):
    """Threads of pyarrow, which pandas imports, would get arenas of the allocator before it is set."""
    loaded = run_python("import sys, ryot_jax.comparison; print(*sorted(sys.modules))").stdout.split()
    assert "ryot_jax.comparison" in loaded and {"pandas", "pyarrow"}.isdisjoint(loaded)
