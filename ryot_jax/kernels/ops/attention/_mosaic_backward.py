"""The backward kernels of Mosaic's attention: one for the gradient of queries, one for those of keys and values."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.attention._mosaic_blocks import Blocks
from ryot_jax.kernels.ops.attention._mosaic_parts import (
    COMPUTING,
    COMPUTING_REGISTERS,
    ROWS,
    TILE,
    Arrays,
    Product,
    Sizes,
    broadcast_columns,
    broadcast_rows,
    fetch_steps,
    kernel_of,
    multiply,
    release,
    wait_all,
)


@pallas.lowered_once("sizes", "blocks")
def gradient_of_queries(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    do_BTHK: jax.Array,
    log2_sum_BHT: jax.Array,
    delta_BHT: jax.Array,
    *,
    sizes: Sizes,
    blocks: Blocks,
) -> jax.Array:
    """Gradient dq, in the queries' shape: each tile of queries steps over the keys that it sees."""
    keys, stages, K = blocks.dq_keys, blocks.dq_stages, sizes.K

    def attention_gradient_of_queries(
        q_ref: Any,
        k_ref: Any,
        v_ref: Any,
        do_ref: Any,
        log2_sum_ref: Any,
        delta_ref: Any,
        dq_ref: Any,
        q_smem: Any,
        do_smem: Any,
        sum_smem: Any,
        delta_smem: Any,
        k_smem: Any,
        v_smem: Any,
        own_ready: Any,
        ready: Any,
        consumed: Any,
    ) -> None:
        b, head, warpgroup = (lax.axis_index(name) for name in ("sequence", "head", "warpgroup"))
        tile = sizes.T // TILE - 1 - lax.axis_index("tile")
        whole, n_masked = sizes.steps(tile * TILE, keys)

        @pl.when(warpgroup < COMPUTING)
        def compute() -> None:
            plgpu.set_max_registers(COMPUTING_REGISTERS, action="increase")
            first_query = tile * TILE + warpgroup * ROWS
            mine, mine_of_sums = (b, pl.ds(first_query, ROWS), head), (b, head, pl.ds(first_query, ROWS))
            q, do, own = q_smem.at[warpgroup], do_smem.at[warpgroup], own_ready.at[warpgroup]
            plgpu.copy_gmem_to_smem(q_ref.at[mine], q, own)
            plgpu.copy_gmem_to_smem(do_ref.at[mine], do, own)
            plgpu.copy_gmem_to_smem(log2_sum_ref.at[mine_of_sums], sum_smem.at[warpgroup], own)
            plgpu.copy_gmem_to_smem(delta_ref.at[mine_of_sums], delta_smem.at[warpgroup], own)
            plgpu.barrier_wait(own)
            log2_sum_R, delta_R = sum_smem[warpgroup], delta_smem[warpgroup]

            def step(i: jax.Array, dq_RK: jax.Array, *, masked: bool) -> jax.Array:
                slot = lax.rem(i, jnp.int32(stages))

                def weights_and_their_gradient(
                    scores: Callable[[], jax.Array], dp: Callable[[], jax.Array]
                ) -> tuple[jax.Array, jax.Array]:
                    s_RC = scores()
                    if masked:
                        s_RC = sizes.mask_scores(s_RC, first_query, i * keys, key_axis=1)
                    return jnp.exp2(s_RC * sizes.scale - broadcast_rows(log2_sum_R, s_RC.shape)), dp()

                plgpu.barrier_wait(ready.at[slot])
                p_RC, dp_RC = multiply(
                    [
                        Product(q, k_smem.at[slot], transposed=True),
                        Product(do, v_smem.at[slot], transposed=True),
                    ],
                    weights_and_their_gradient,
                )
                ds_RC = p_RC * (dp_RC - broadcast_rows(delta_R, dp_RC.shape))
                (dq_RK,) = multiply([Product(ds_RC.astype(sizes.dtype), k_smem.at[slot], plus=dq_RK)], wait_all)
                release(consumed.at[slot])
                return dq_RK

            dq_RK = jnp.zeros((ROWS, K), jnp.float32)
            dq_RK = lax.fori_loop(jnp.int32(0), whole, functools.partial(step, masked=False), dq_RK)
            for i in range(n_masked):
                dq_RK = step(whole + i, dq_RK, masked=True)
            q[...] = (dq_RK * K**-0.5).astype(sizes.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q, dq_ref.at[mine])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(warpgroup == COMPUTING)
        def fetch() -> None:
            def copy(i: jax.Array, slot: jax.Array) -> None:
                rows, theirs = pl.ds(i * keys, keys), lax.div(head, jnp.int32(sizes.group))
                k, v = k_ref.at[b, rows, sizes.k_heads + theirs], v_ref.at[b, rows, sizes.v_heads + theirs]
                plgpu.copy_gmem_to_smem(k, k_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(v, v_smem.at[slot], ready.at[slot])

            fetch_steps(whole + n_masked, stages, [consumed], copy)

    scratch = {
        "q_smem": plgpu.SMEM((COMPUTING, ROWS, K), sizes.dtype),
        "do_smem": plgpu.SMEM((COMPUTING, ROWS, K), sizes.dtype),
        "sum_smem": plgpu.SMEM((COMPUTING, ROWS), jnp.float32),
        "delta_smem": plgpu.SMEM((COMPUTING, ROWS), jnp.float32),
        "k_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "v_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "own_ready": plgpu.Barrier(num_arrivals=4, num_barriers=COMPUTING),
        "ready": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "consumed": plgpu.Barrier(num_arrivals=COMPUTING, num_barriers=stages),
    }
    out = jax.ShapeDtypeStruct(q_BTHK.shape, sizes.dtype)
    run = kernel_of(sizes, attention_gradient_of_queries, out, scratch, sizes.T // TILE, sizes.H)
    return run(q_BTHK, k_BSGK, v_BSGK, do_BTHK, log2_sum_BHT, delta_BHT)


@pallas.lowered_once("sizes", "blocks")
def gradients_of_keys(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    do_BTHK: jax.Array,
    log2_sum_BHT: jax.Array,
    delta_BHT: jax.Array,
    into: jax.Array | None = None,
    *,
    sizes: Sizes,
    blocks: Blocks,
) -> tuple[jax.Array, ...]:
    """Gradients dk_BSGK and dv_BSGK: each tile of keys steps over the queries that see it, of all heads that read it.

    If `into` is given, both are written to it and it is returned.

    Scores are transposed: rows are keys, so that the weights are in registers as the products with dO and Q need them.
    """
    queries, stages, K = blocks.dkv_queries, blocks.dkv_stages, sizes.K

    def attention_gradients_of_keys(
        q_ref: Any,
        k_ref: Any,
        v_ref: Any,
        do_ref: Any,
        log2_sum_ref: Any,
        delta_ref: Any,
        *out_refs: Any,
        k_smem: Any,
        v_smem: Any,
        q_smem: Any,
        do_smem: Any,
        sum_smem: Any,
        delta_smem: Any,
        own_ready: Any,
        ready: Any,
        consumed: Any,
    ) -> None:
        b, head, tile, warpgroup = (lax.axis_index(name) for name in ("sequence", "head", "tile", "warpgroup"))
        dk_ref, dv_ref = out_refs[0], out_refs[-1]
        first_block = lax.div(tile * TILE, jnp.int32(queries)) if sizes.causal else jnp.int32(0)
        # Padded keys need no mask: their rows are sliced off.
        n_masked = sizes.diagonal(queries) if sizes.causal else 0
        n_blocks = sizes.T // queries
        n_steps = n_blocks - first_block  # of each head

        @pl.when(warpgroup < COMPUTING)
        def compute() -> None:
            plgpu.set_max_registers(COMPUTING_REGISTERS, action="increase")
            first_key = tile * TILE + warpgroup * ROWS
            rows = pl.ds(first_key, ROWS)
            my_keys, my_values = (b, rows, sizes.k_heads + head), (b, rows, sizes.v_heads + head)
            k, v, own = k_smem.at[warpgroup], v_smem.at[warpgroup], own_ready.at[warpgroup]
            plgpu.copy_gmem_to_smem(k_ref.at[my_keys], k, own)
            plgpu.copy_gmem_to_smem(v_ref.at[my_values], v, own)
            plgpu.barrier_wait(own)

            def step(i: jax.Array, carry: Arrays, *, masked: bool, before: jax.Array) -> Arrays:
                """One step; `before`: the number of steps of the heads already done."""
                dk_RK, dv_RK = carry
                slot = lax.rem(before + i - first_block, jnp.int32(stages))

                def weights_and_their_gradient(
                    scores: Callable[[], jax.Array], dp: Callable[[], jax.Array]
                ) -> tuple[jax.Array, jax.Array]:
                    s_RC = scores()
                    if masked:
                        s_RC = sizes.mask_scores(s_RC, i * queries, first_key, key_axis=0)
                    return jnp.exp2(s_RC * sizes.scale - broadcast_columns(sum_smem[slot], s_RC.shape)), dp()

                plgpu.barrier_wait(ready.at[slot])
                p_RC, dp_RC = multiply(
                    [
                        Product(k, q_smem.at[slot], transposed=True),
                        Product(v, do_smem.at[slot], transposed=True),
                    ],
                    weights_and_their_gradient,
                )
                ds_RC = p_RC * (dp_RC - broadcast_columns(delta_smem[slot], dp_RC.shape))
                dv_RK, dk_RK = multiply(
                    [
                        Product(p_RC.astype(sizes.dtype), do_smem.at[slot], plus=dv_RK),
                        Product(ds_RC.astype(sizes.dtype), q_smem.at[slot], plus=dk_RK),
                    ],
                    wait_all,
                )
                release(consumed.at[slot])
                return dk_RK, dv_RK

            def of_head(member: jax.Array, carry: Arrays) -> Arrays:
                before = member * n_steps
                for i in range(n_masked):
                    carry = step(first_block + i, carry, masked=True, before=before)
                unmasked = functools.partial(step, masked=False, before=before)
                return lax.fori_loop(first_block + n_masked, jnp.int32(n_blocks), unmasked, carry)

            zeros = jnp.zeros((ROWS, K), jnp.float32)
            dk_RK, dv_RK = lax.fori_loop(jnp.int32(0), jnp.int32(sizes.group), of_head, (zeros, zeros))
            k[...] = (dk_RK * K**-0.5).astype(sizes.dtype)
            v[...] = dv_RK.astype(sizes.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(k, dk_ref.at[my_keys])
            plgpu.copy_smem_to_gmem(v, dv_ref.at[my_values])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(warpgroup == COMPUTING)
        def fetch() -> None:
            def copy(i: jax.Array, slot: jax.Array) -> None:
                query_head = head * sizes.group + lax.div(i, n_steps)
                rows = pl.ds((first_block + lax.rem(i, n_steps)) * queries, queries)
                plgpu.copy_gmem_to_smem(q_ref.at[b, rows, query_head], q_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(do_ref.at[b, rows, query_head], do_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(log2_sum_ref.at[b, query_head, rows], sum_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(delta_ref.at[b, query_head, rows], delta_smem.at[slot], ready.at[slot])

            fetch_steps(n_steps * sizes.group, stages, [consumed], copy)

    scratch = {
        "k_smem": plgpu.SMEM((COMPUTING, ROWS, K), sizes.dtype),
        "v_smem": plgpu.SMEM((COMPUTING, ROWS, K), sizes.dtype),
        "q_smem": plgpu.SMEM((stages, queries, K), sizes.dtype),
        "do_smem": plgpu.SMEM((stages, queries, K), sizes.dtype),
        "sum_smem": plgpu.SMEM((stages, queries), jnp.float32),
        "delta_smem": plgpu.SMEM((stages, queries), jnp.float32),
        "own_ready": plgpu.Barrier(num_arrivals=2, num_barriers=COMPUTING),
        "ready": plgpu.Barrier(num_arrivals=4, num_barriers=stages),
        "consumed": plgpu.Barrier(num_arrivals=COMPUTING, num_barriers=stages),
    }
    operands = q_BTHK, k_BSGK, v_BSGK, do_BTHK, log2_sum_BHT, delta_BHT
    outs = None if into is not None else (jax.ShapeDtypeStruct((sizes.B, sizes.S, sizes.G, K), sizes.dtype),) * 2
    run = kernel_of(sizes, attention_gradients_of_keys, outs, scratch, sizes.S // TILE, sizes.G)
    if into is not None:
        return (run(*operands, into),)
    dk_BSGK, dv_BSGK = run(*operands)
    return dk_BSGK, dv_BSGK
