"""Programs around the patterns: a program is evaluated with one of its equations changed.

`mutated` gives a JAX function that computes what another one does but for one equation, chosen by a number: a result is
scaled, shifted, reused or turned around, an operation or a number is another one. Most are no op's any more, some still
are, and all have to be computed as they are written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from experiments.lib.spellings import KINDS, OPERANDS
from ryot_jax.rewriting import optimize

SWAPPED: dict[str, Callable[..., jax.Array]] = {
    "add": jax.lax.sub,
    "sub": jax.lax.add,
    "mul": jax.lax.add,
    "div": jax.lax.mul,
    "max": jax.lax.min,
    "exp": jax.lax.tanh,
    "tanh": jax.lax.sin,
    "rsqrt": jax.lax.tanh,
    "sqrt": jax.lax.tanh,
    "log": jax.lax.tanh,
    "square": jax.lax.sin,
    "neg": jax.lax.sin,
    "lt": jax.lax.le,
    "ge": jax.lax.gt,
    "and": jax.lax.bitwise_or,
}


def _of_result(change: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    return lambda eqn, operands, result: change(result)


def _swapped(eqn: Any, operands: Sequence[Any], result: Any) -> Any:
    swap = SWAPPED.get(eqn.primitive.name)
    if swap is None:
        return None
    operands = (
        [
            jnp.broadcast_to(jnp.asarray(x, result.dtype if x.dtype != bool else None), result.shape)
            for x in map(jnp.asarray, operands)
        ]
        if eqn.primitive.name in ("add", "sub", "mul", "div", "max")
        else operands
    )
    return swap(*operands)


def _other_number(eqn: Any, operands: Sequence[Any], result: Any) -> Any:
    changed = [
        type(atom.val)(atom.val * 1.25) if isinstance(atom, core.Literal) and _is_float(atom.aval) else None
        for atom in eqn.invars
    ]
    if all(value is None for value in changed):
        return None
    others = [
        operand if value is None else jnp.asarray(value, operand.dtype)
        for operand, value in zip(operands, changed, strict=True)
    ]
    return eqn.primitive.bind(*others, **eqn.params)


def _turned(eqn: Any, operands: Sequence[Any], result: Any) -> Any:
    pairs = [(i, j) for i in range(result.ndim) for j in range(i) if result.shape[i] == result.shape[j] > 1]
    return jnp.swapaxes(result, *pairs[-1]) if pairs else None


CHANGES: dict[str, Callable[..., Any]] = {
    "scaled": _of_result(lambda x: x * 1.5),
    "shifted": _of_result(lambda x: x + 0.25),
    "negated": _of_result(lambda x: -x),
    "stopped": _of_result(jax.lax.stop_gradient),
    "rolled": _of_result(lambda x: jnp.roll(x, 1, -1) if x.ndim else x),
    "doubled": _of_result(lambda x: x + x),
    "unchanged": _of_result(lambda x: x),
    "swapped": _swapped,
    "number": _other_number,
    "turned": _turned,
}


def _is_float(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.floating)


def equations(function: Callable[..., Any], *args: Any) -> int:
    """The number of equations that can be changed."""
    closed, count = jax.make_jaxpr(function)(*args), 0

    def counted(*args: Any) -> Any:
        nonlocal count
        results, count, _ = _evaluate(closed, args, -1, "unchanged")
        return results

    jax.eval_shape(counted, *args)
    return count


def mutated(function: Callable[..., Any], place: int, change: str, reuses: bool, *args: Any) -> Callable[..., Any]:
    """The function with equation `place` changed; `reuses` returns what that equation computes as well."""
    closed = jax.make_jaxpr(function)(*args)

    def run(*args: Any) -> Any:
        results, _, kept = _evaluate(closed, args, place, change)
        return (*results, kept) if reuses and kept is not None else results

    return run


def _evaluate(closed: Any, args: Sequence[Any], place: int, change: str) -> tuple[list[Any], int, Any]:
    count, kept = 0, None

    def run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        nonlocal count, kept
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(atom: Any) -> Any:
            if not isinstance(atom, core.Literal):
                return known[atom]
            aval: Any = atom.aval
            return jnp.asarray(atom.val, aval.dtype)

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            if eqn.primitive.name in ("jit", "pjit"):
                inner = eqn.params["jaxpr"]
                results = run(inner.jaxpr, inner.consts, operands)
            elif "jaxpr" in str(list(eqn.params)):
                jaxpr_of_one = core.Jaxpr(
                    [],
                    list(eqn.invars),
                    list(eqn.outvars),
                    [eqn],
                    debug_info=closed.jaxpr.debug_info.with_unknown_names(),
                )
                results = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr_of_one, []))(*operands)
            else:
                results = eqn.primitive.bind(*operands, **eqn.params)
                results = results if eqn.primitive.multiple_results else [results]
                if _is_float(eqn.outvars[0].aval) or eqn.primitive.name in SWAPPED:
                    if count == place:
                        found = (
                            CHANGES[change](eqn, operands, results[0])
                            if _is_float(results[0]) or change == "swapped"
                            else None
                        )
                        if found is not None and found.shape == results[0].shape and found.dtype == results[0].dtype:
                            results = [found, *results[1:]]
                        kept = results[0]
                    count += 1
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    return run(closed.jaxpr, closed.consts, args), count, kept


def compare(kind: str, name: str, place: int, change: str, reuses: bool, seed: int) -> tuple[int, float]:
    """Compares a changed program with its optimized one.

    Returns:
      The number of ops in the optimized one, and the largest relative error of results and gradients.

    Raises:
      MismatchError: rounding does not explain the error.
    """
    function, _ = KINDS[kind][name]
    rng = np.random.default_rng(seed)
    operands = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in OPERANDS[kind]]
    count = equations(function, *operands)
    program = mutated(function, place % count, change, reuses, *operands)
    fast = optimize(program, verify=False)
    found = fast.check(*operands)
    return len(fast.plan(*operands).all_sites), max(found.result, found.gradient)
