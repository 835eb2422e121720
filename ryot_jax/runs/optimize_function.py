"""The comparison of a person's own loss function with its optimized one."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from ryot_jax.comparison import compare_losses
from ryot_jax.rewriting import optimize
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError

_BLOCKS = 8


def optimize_function(function: str, example: str, *, precision: str, steps: int, console: Console) -> int:
    """Prints what kernels take over, the error that they make, and the verdict of a comparison.

    Args:
      function: the loss, `file.py:name` or `module:name`.
      example: a function that returns its parameters and a batch, or a list of batches; named likewise.
      precision: as in `optimize`.
      steps: training steps of each arm; 0: nothing is trained.
      console: where the text goes.

    Returns:
      The exit code of the verdict; 0 without a comparison.

    Raises:
      ConfigError: a name is not found, the example does not fit, or nothing was found to optimize.
      MismatchError: the optimized function gives other numbers.
    """
    loss, (params, batches) = load(function), _example(example)
    fast = optimize(loss, precision=precision)
    batch = batches[0] if isinstance(batches[0], tuple) else (batches[0],)
    console.line(str(fast.explain(params, *batch)))
    found = fast.check(params, *batch)
    console.line(f"relative errors: {found.result:.1e} of results, {found.gradient:.1e} of gradients")
    if not steps:
        return 0
    outcome = compare_losses(
        loss,
        fast,
        params,
        batches,
        steps=steps,
        block_steps=steps // _BLOCKS,
        control_blocks=_BLOCKS,
        control_steps=steps // _BLOCKS,
        same_numerics=not precision,
        name=function,
        log=console.line,
    )
    console.line(outcome.summary())
    return outcome.exit_code


def load(name: str) -> Any:
    """The object of this name, `file.py:name` or `module:name`; modules are looked for in the working folder too.

    Raises:
      ConfigError: there is no such module or no such name in it.
    """
    module_name, _, attribute = name.rpartition(":")
    if not module_name:
        raise ConfigError(f"{name!r} names no function: write FILE.py:NAME or MODULE:NAME")
    module = _from_file(Path(module_name)) if module_name.endswith(".py") else _imported(module_name)
    if not hasattr(module, attribute):
        raise ConfigError(f"{module_name} has no {attribute!r}; it has {', '.join(sorted(_functions(module)))}")
    return getattr(module, attribute)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: name a file with the function, as in model.py:loss")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    sys.path.insert(0, str(path.parent.absolute()))  # the file's own imports
    spec.loader.exec_module(module)
    return module


def _imported(name: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}: name a module that can be imported here, or a file as in model.py:loss") from error


def _functions(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _example(name: str) -> tuple[Any, list[Any]]:
    made = load(name)()
    if not isinstance(made, tuple) or len(made) != 2:
        raise ConfigError(f"{name} must return a tuple of parameters and a batch; got {type(made).__name__}")
    params, batches = made
    return params, batches if isinstance(batches, list) else [batches]
