"""The public function `optimize`."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from ryot_jax.kernels.catalogue import ops as all_ops
from ryot_jax.rewriting import check, graph
from ryot_jax.rewriting.arguments import Arguments
from ryot_jax.rewriting.choose import PRECISIONS, Chooser
from ryot_jax.rewriting.evaluate import evaluate
from ryot_jax.rewriting.explain import Explanation
from ryot_jax.rewriting.plan import Plan, plan
from ryot_jax.runtime.errors import ConfigError


class Optimized:
    """A function with kernels in it, as made by `optimize`."""

    def __init__(self, function: Callable[..., Any], chooser: Chooser, ops: frozenset[str], verify: bool):
        functools.update_wrapper(self, function)
        self._function, self._chooser, self._ops, self._verify = function, chooser, ops, verify

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result, with its pytree and its dtypes.

        Raises:
          MismatchError: at the first call with arrays of these shapes, see `check`.
        """
        arguments = Arguments(args, kwargs)
        if self._verify and arguments.are_concrete and arguments.shapes not in self._verified:
            self.check(*args, **kwargs)
        found, tree = self._planned(arguments, self._chooser)
        return jax.tree.unflatten(tree, evaluate(found, arguments.arrays, self._chooser.run))

    @functools.cached_property
    def _verified(self) -> set[Any]:
        """The shapes of arguments for which results and gradients were compared."""
        return set()

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The places that ops take for these arguments, of which `jax.ShapeDtypeStruct`s are enough."""
        return self._planned(Arguments(args, kwargs), self._chooser)[0]

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """A table of what was found for these arguments: printed, it tells places, lines, kernels and reasons.

        Args:
          *args: the function's arguments, of which `jax.ShapeDtypeStruct`s are enough.
          **kwargs: the same, by name.
        """
        return Explanation.of(
            getattr(self._function, "__name__", "function"), self.plan(*args, **kwargs), self._chooser
        )

    def check(self, *args: Any, **kwargs: Any) -> check.Comparison:
        """Compares results and gradients with the original function's.

        The gradients are those of all results, weighted unevenly, with respect to all float arguments.

        Args:
          *args: the function's arguments.
          **kwargs: the same, by name.

        Returns:
          The largest relative errors, of a result and of a gradient.

        Raises:
          MismatchError: an error is larger than rounding explains; it names the place that causes it.
        """
        arguments = Arguments(args, kwargs)

        def with_sites(keys: Collection[str] | None) -> Callable[..., Any]:
            chooser = dataclasses.replace(self._chooser, keys=None if keys is None else frozenset(keys))

            def run(*arrays: Any) -> Any:
                found, tree = self._planned(arguments, chooser)
                return jax.tree.unflatten(tree, evaluate(found, arrays, chooser.run))

            return run

        found = check.compare(
            arguments.bind(self._function), with_sites, arguments.arrays, self.plan(*args, **kwargs), self._chooser
        )
        self._verified.add(arguments.shapes)
        return found

    def _planned(self, arguments: Arguments, chooser: Chooser) -> tuple[Plan, Any]:
        """The plan for arguments, and the tree of the results."""
        closed, shapes = jax.make_jaxpr(arguments.bind(self._function), return_shape=True)(*arguments.arrays)
        return plan(graph.build(closed), chooser.wanted, chooser.implementation, self._ops), jax.tree.structure(shapes)


def optimize(
    function: Callable[..., Any],
    *,
    precision: str = "",
    implementations: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    verify: bool = True,
) -> Optimized:
    """A function that computes the same as a given one, with the kernels of this package.

        fast_loss = optimize(loss)
        step = jax.jit(jax.value_and_grad(fast_loss))
        print(fast_loss.explain(params, batch))

    The function is traced, and what it computes is compared with what the ops of `ryot_jax.kernels` do, in whatever
    order of axes, sums and products it is written, within `scan`, `remat`, `cond` and `while` too. Functions with a
    `custom_vjp` are left alone. It is for functions before differentiation: a gradient has other equations.

    Args:
      function: a JAX function of pytrees. Arguments that are not arrays are constants.
      precision: '': numbers keep their class, equal to the original's but for rounding in its dtypes; 'bfloat16':
        operands of the ops are rounded to bfloat16.
      implementations: op -> the name of an implementation or 'auto', which is the default: the first one that this
        machine supports and nothing speaks against.
      only: names of the ops to take; None: all.
      without: names of ops to leave alone.
      verify: whether the first call with arrays of certain shapes, outside of any other transformation, compares
        results and gradients with the original's, see `Optimized.check`.

    Returns:
      A callable of the same signature that can be jitted, differentiated in reverse mode, mapped and scanned.

    Raises:
      ConfigError: an op, an implementation or the precision is not known.
    """
    known = {op.name: op for op in all_ops()}
    for field, names in (("only", only or ()), ("without", without), ("implementations", implementations or {})):
        if unknown := sorted(set(names) - set(known)):
            raise ConfigError(f"{field}: there is no op {unknown[0]!r}; there are {sorted(known)}")
    for name, wish in (implementations or {}).items():
        if wish != "auto" and wish not in known[name].implementations:
            choices = sorted(known[name].implementations)
            raise ConfigError(f"implementations[{name!r}] = {wish!r}: use 'auto' or one of {choices}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision = {precision!r}: use one of {PRECISIONS}")
    taken = frozenset(set(known if only is None else only) - set(without))
    return Optimized(function, Chooser(jax.default_backend(), precision, dict(implementations or {})), taken, verify)
