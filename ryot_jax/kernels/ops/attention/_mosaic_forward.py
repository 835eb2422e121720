"""The forward kernel of Mosaic's attention."""

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
    LOG2_E,
    ROWS,
    TILE,
    Arrays,
    Product,
    Sizes,
    broadcast_rows,
    fetch_steps,
    kernel_of,
    multiply,
    release,
    wait_all,
)


@pallas.lowered_once("sizes", "blocks")
def forward(
    q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, *, sizes: Sizes, blocks: Blocks
) -> tuple[jax.Array, jax.Array]:
    """Outputs o_BTHK, and the base-2 logarithm of each query's sum of 2**(scale q k), in [B, H, T]."""
    keys, stages, K = blocks.keys, blocks.stages, sizes.K

    def attention_forward(
        q_ref: Any,
        k_ref: Any,
        v_ref: Any,
        o_ref: Any,
        log2_sum_ref: Any,
        q_smem: Any,
        k_smem: Any,
        v_smem: Any,
        sum_smem: Any,
        q_ready: Any,
        k_ready: Any,
        v_ready: Any,
        k_consumed: Any,
        v_consumed: Any,
        turn: Any,
    ) -> None:
        b, head, warpgroup = (lax.axis_index(name) for name in ("sequence", "head", "warpgroup"))
        # The causal tiles with the most work come first.
        tile = sizes.T // TILE - 1 - lax.axis_index("tile")
        whole, n_masked = sizes.steps(tile * TILE, keys)

        @pl.when(warpgroup < COMPUTING)
        def compute() -> None:
            plgpu.set_max_registers(COMPUTING_REGISTERS, action="increase")
            first_query = tile * TILE + warpgroup * ROWS
            mine = b, pl.ds(first_query, ROWS), head
            q = q_smem.at[warpgroup]
            plgpu.copy_gmem_to_smem(q_ref.at[mine], q, q_ready.at[warpgroup])
            plgpu.barrier_wait(q_ready.at[warpgroup])

            def change_turns() -> None:
                plgpu.barrier_arrive(turn)
                plgpu.barrier_wait(turn)

            def step(i: jax.Array, carry: Arrays, *, masked: bool) -> Arrays:
                o_RK, max_R, sum_R = carry
                slot = lax.rem(i, jnp.int32(stages))

                def scores_issued(scores: Callable[[], jax.Array]) -> jax.Array:
                    change_turns()
                    return scores()

                plgpu.barrier_wait(k_ready.at[slot])
                s_RC = multiply([Product(q, k_smem.at[slot], transposed=True)], scores_issued)
                release(k_consumed.at[slot])
                if masked:
                    s_RC = sizes.mask_scores(s_RC, first_query, i * keys, key_axis=1)
                new_max_R = jnp.maximum(max_R, s_RC.max(axis=1) * sizes.scale)
                p_RC = jnp.exp2(s_RC * sizes.scale - broadcast_rows(new_max_R, s_RC.shape))
                decay_R = jnp.exp2(max_R - new_max_R)
                sum_R = sum_R * decay_R + p_RC.sum(axis=1)
                o_RK = o_RK * broadcast_rows(decay_R, o_RK.shape)
                p_RC, o_RK, sum_R, max_R = lax.optimization_barrier((p_RC.astype(sizes.dtype), o_RK, sum_R, new_max_R))
                plgpu.barrier_arrive(turn)
                plgpu.barrier_wait(v_ready.at[slot])
                plgpu.barrier_wait(turn)
                (o_RK,) = multiply([Product(p_RC, v_smem.at[slot], plus=o_RK)], wait_all)
                release(v_consumed.at[slot])
                return o_RK, max_R, sum_R

            # One warpgroup runs half a step behind: its softmax overlaps the other's products.
            pl.when(warpgroup == 1)(change_turns)
            carry: Arrays = (
                jnp.zeros((ROWS, K), jnp.float32),
                jnp.full((ROWS,), -jnp.inf, jnp.float32),
                jnp.zeros((ROWS,), jnp.float32),
            )
            carry = lax.fori_loop(jnp.int32(0), whole, functools.partial(step, masked=False), carry)
            for i in range(n_masked):  # unrolled: LLVM would hoist, and keep, all indices of keys out of a loop
                carry = step(whole + i, carry, masked=True)
            o_RK, max_R, sum_R = carry
            pl.when(warpgroup == 0)(change_turns)

            q[...] = (o_RK / broadcast_rows(sum_R, o_RK.shape)).astype(sizes.dtype)  # nothing reads q any more
            sum_smem[warpgroup] = max_R + jnp.log(sum_R) * LOG2_E
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q, o_ref.at[mine])
            plgpu.copy_smem_to_gmem(sum_smem.at[warpgroup], log2_sum_ref.at[b, head, pl.ds(first_query, ROWS)])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(warpgroup == COMPUTING)
        def fetch() -> None:
            def copy(i: jax.Array, slot: jax.Array) -> None:
                rows, theirs = pl.ds(i * keys, keys), lax.div(head, jnp.int32(sizes.group))
                k, v = k_ref.at[b, rows, sizes.k_heads + theirs], v_ref.at[b, rows, sizes.v_heads + theirs]
                plgpu.copy_gmem_to_smem(k, k_smem.at[slot], k_ready.at[slot])
                plgpu.copy_gmem_to_smem(v, v_smem.at[slot], v_ready.at[slot])

            fetch_steps(whole + n_masked, stages, [k_consumed, v_consumed], copy)

    scratch = {
        "q_smem": plgpu.SMEM((COMPUTING, ROWS, K), sizes.dtype),
        "k_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "v_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "sum_smem": plgpu.SMEM((COMPUTING, ROWS), jnp.float32),
        "q_ready": plgpu.Barrier(num_barriers=COMPUTING),
        "k_ready": plgpu.Barrier(num_barriers=stages),
        "v_ready": plgpu.Barrier(num_barriers=stages),
        "k_consumed": plgpu.Barrier(num_arrivals=COMPUTING, num_barriers=stages),
        "v_consumed": plgpu.Barrier(num_arrivals=COMPUTING, num_barriers=stages),
        "turn": plgpu.Barrier(num_arrivals=COMPUTING),
    }
    out = (
        jax.ShapeDtypeStruct((sizes.B, sizes.T, sizes.H, K), sizes.dtype),
        jax.ShapeDtypeStruct((sizes.B, sizes.H, sizes.T), jnp.float32),
    )
    return kernel_of(sizes, attention_forward, out, scratch, sizes.T // TILE, sizes.H)(q_BTHK, k_BSGK, v_BSGK)
