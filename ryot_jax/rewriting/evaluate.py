"""Evaluation of a graph with ops in the place of what they compute."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from ryot_jax.rewriting.graph import REMAT, Node, Value
from ryot_jax.rewriting.plan import Plan
from ryot_jax.rewriting.sites import Site
from ryot_jax.rewriting.steps import Cut

Run = Callable[[Site, Sequence[jax.Array]], Sequence[jax.Array]]


def evaluate(plan: Plan, args: Sequence[Any], run: Run) -> list[Any]:
    """The results of a graph.

    Args:
      plan: the graph and its sites.
      args: its arguments, flattened.
      run: computes a site from its operands: its root, and its first operand where it passes that on.
    """
    known: dict[Value, Any] = dict(zip(plan.graph.inputs, args, strict=True))

    def read(value: Value) -> Any:
        if value.constant is None:
            return known[value]
        # A literal may be a Python number.
        return value.constant if hasattr(value.constant, "shape") else jnp.asarray(value.constant, value.dtype)

    for step in plan.steps:
        match step:
            case Site():
                arrays = [operand.arranged(jnp.asarray(read(operand.value))) for operand in step.operands]
                with jax.named_scope(step.op):
                    known[step.root], *passed = run(step, arrays)
                if passed:
                    (known[step.operands[0].value],) = passed
            case Cut():
                known[step.value] = step.of(known[step.source])
            case Node():
                results = _evaluated(step, [read(value) for value in step.inputs], plan, run)
                for value, result in zip(step.outputs, results, strict=True):
                    known.setdefault(value, result)
    return [read(value) for value in plan.graph.outputs]


def _evaluated(node: Node, operands: list[Any], plan: Plan, run: Run) -> Sequence[Any]:
    bodies = plan.bodies.get(node, ())
    if any(body.all_sites for body in bodies):
        return _with_bodies(node, operands, bodies, run)
    return node.evaluate(operands)


def _with_bodies(node: Node, operands: list[Any], bodies: tuple[Plan, ...], run: Run) -> Sequence[Any]:
    """A call of functions that hold sites, by the public function that makes such a call."""
    params = node.params

    def function(body: Plan) -> Callable[..., list[Any]]:
        return lambda *args: evaluate(body, args, run)

    match node.primitive:
        case name if name in REMAT:
            call = jax.checkpoint(function(bodies[0]), prevent_cse=params["prevent_cse"], policy=params["policy"])
            return list(call(*operands))
        case "shard_map":
            mapped = jax.shard_map(
                lambda *args: tuple(function(bodies[0])(*args)),
                mesh=params["mesh"],
                in_specs=tuple(params["in_specs"]),
                out_specs=tuple(params["out_specs"]),
                axis_names=params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"],
                check_vma=params["check_vma"],
            )
            return list(mapped(*operands))
        case "cond":
            index, *rest = operands
            return list(jax.lax.switch(index, [function(body) for body in bodies], *rest))
        case "while":
            n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
            of_cond, of_body = operands[:n_cond], operands[n_cond : n_cond + n_body]
            condition = core.jaxpr_as_fun(params["cond_jaxpr"])
            return jax.lax.while_loop(
                lambda carry: condition(*of_cond, *carry)[0],
                lambda carry: function(bodies[0])(*of_body, *carry),
                operands[n_cond + n_body :],
            )
        case "scan":
            n_consts, n_carry = params["num_consts"], params["num_carry"]
            consts, carry, xs = (
                operands[:n_consts],
                operands[n_consts : n_consts + n_carry],
                operands[n_consts + n_carry :],
            )

            def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
                results = function(bodies[0])(*consts, *carry, *x)
                return results[:n_carry], results[n_carry:]

            carry, ys = jax.lax.scan(
                body,
                carry,
                xs,
                length=params["length"],
                reverse=params["reverse"],
                unroll=params["unroll"],
            )
            return [*carry, *ys]
    raise AssertionError(f"{node.primitive} has no bodies")
