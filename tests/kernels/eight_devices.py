"""Run by test_eight_devices.py in a process of its own, which has 8 simulated devices; prints one JSON object.

Every op under shard_map, its batch spread over the devices, against the same op on one device: for each
implementation, the largest relative error of loss and gradients. And the hashed dropout mask of a sharded array.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ryot_jax import kernels
from ryot_jax.kernels import cpu

B, T, D, V = 16, 6, 8, 13


def spread(y):
    """A loss with a cotangent that differs between elements."""
    return jnp.sum(jnp.sin(y))


def losses(implementation):
    """Op -> its loss as a function of params, x_BTD and tokens_BT."""
    named = {"implementation": implementation}
    cross_entropy = functools.partial(kernels.linear_cross_entropy, **named)

    def norm(op):
        return lambda p, x, _: sum(map(spread, op(x, p["scale"], residual=2 * x, with_sum=True, **named)))

    def of(p):
        return kernels.NormSpec(p["scale"], p["b"], **named)

    def attention(p, x, tokens):
        q_BTHK, kv_BTGK = x.reshape(-1, T, 4, 2), (x @ p["w"])[..., :4].reshape(-1, T, 2, 2)
        return spread(kernels.attention(q_BTHK, kv_BTGK, jnp.sin(kv_BTGK), window=4, mask_BS=tokens > 1, **named))

    ops = {
        "dense": lambda p, x, _: spread(kernels.dense(x, p["w"], p["b"], activation="gelu", residual=x, **named)),
        "mlp": lambda p, x, _: spread(kernels.mlp(x, p["w"], p["w"][:4], kind="swiglu", residual=x, **named)),
        "norm_dense": lambda p, x, _: sum(map(spread, kernels.norm_dense(x, of(p), p["w"], p["b"], **named))),
        "norm_mlp": lambda p, x, _: spread(kernels.norm_mlp(x, of(p), p["w"], p["w"], kind="gelu", **named)),
        "layer_norm": norm(kernels.layer_norm),
        "rms_norm": norm(kernels.rms_norm),
        "attention": attention,
        "packed_attention": lambda p, x, _: spread(
            kernels.packed_attention(x.reshape(-1, T, 4, 2), 2, n_kv_heads=1, **named)
        ),
        "cross_entropy": lambda p, x, t: cross_entropy(x.reshape(-1, D), p["table"], t.reshape(-1) - 1)[0],
        "cross_entropies": lambda p, x, t: spread(
            cross_entropy(x.reshape(-1, D), p["table"], t.reshape(-1) - 1, z_loss=0.1, reduction="none")
        ),
    }
    if implementation != "xla":
        ops["embedding"] = lambda p, x, t: spread(kernels.embedding(p["table"], t, p["table"][:T], **named) * x)
    return ops


def largest_errors(implementation, mesh, arrays, *, checks):
    """By op, and the number of custom calls in the spread program.

    Without the check of varying axes gradients of replicated params are added up here, as in training; with it, by JAX.
    """
    ops = losses(implementation)

    def gradients(*arrays):
        return {name: jax.value_and_grad(loss, argnums=(0, 1))(*arrays) for name, loss in ops.items()}

    def of_part(*arrays):
        def added(loss, dp):
            return (jax.lax.psum(loss, "data"), dp) if checks else jax.lax.psum((loss, dp), "data")

        return {name: (added(loss, dp), dx) for name, (loss, (dp, dx)) in gradients(*arrays).items()}

    sharded = jax.shard_map(
        of_part,
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs={name: (P(), P("data")) for name in ops},
        check_vma=checks,
    )
    expected = {name: ((loss, dp), dx) for name, (loss, (dp, dx)) in jax.jit(gradients)(*arrays).items()}
    compiled = jax.jit(sharded).lower(*arrays).compile()
    actual = compiled(*(jax.device_put(a, s) for a, s in zip(arrays, compiled.input_shardings[0], strict=True)))
    errors = {
        name: max(
            float(np.linalg.norm(np.subtract(a, e)) / max(np.linalg.norm(e), 1.0))
            for a, e in zip(jax.tree.leaves(actual[name]), jax.tree.leaves(expected[name]), strict=True)
        )
        for name in ops
    }
    parts = {len(actual[name][1].sharding.device_set) for name in ops}
    return {"errors": errors, "devices": list(parts), "custom_calls": compiled.as_text().count('"ryot_')}


def main():
    """All implementations that run here."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {"w": normal(D, D), "b": normal(D), "scale": normal(D), "table": normal(V, D)}
    arrays = params, normal(B, T, D), jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    names = ["reference", "xla"] if cpu.unavailable_reason("float32") else ["reference", "xla", "cpu"]
    results = {
        f"{name}{', checked' if checks else ''}": largest_errors(name, mesh, arrays, checks=checks)
        for name in names
        for checks in (False, True)
    }

    def dropped(x):
        return kernels.dropout(x, 0.5, jax.random.key(0), implementation="hash")

    x_BTD = jax.device_put(arrays[1], NamedSharding(mesh, P("data")))
    results["same_mask"] = bool(np.array_equal(jax.jit(dropped)(x_BTD), jax.jit(dropped)(arrays[1])))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
