"""Flash attention for NVIDIA's Hopper, forward and backward, in Pallas' Mosaic GPU.

Three kernels of two computing warpgroups and one that fetches. Windows, padding masks and other GPUs are left to
`attention`'s other implementations.

ptxas of CUDA 12.8.0 to 12.9.0 miscompiles causal masks, jax's own example says. That is not asked here: the runtime's
version is 12.9 for 12.9.0 and 12.9.1 alike, and ptxas another program's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ryot_jax.kernels import pallas

_ROWS = 64  # of a warpgroup: wgmma's
_COMPUTING = 2  # warpgroups; one more fetches
_TILE = _COMPUTING * _ROWS  # rows of a block of the grid: queries, or keys for their gradients
# Of a thread; the three warpgroups share 504, in steps of 8.
_COMPUTING_REGISTERS, _FETCHING_REGISTERS = 240, 24
_LOG2_E = math.log2(math.e)

_Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of what the kernels keep in shared memory.

    Attributes:
      keys: of a step of the forward kernel; 64, 128 or 256.
      stages: how many of these blocks are held at once.
      dq_keys: the same of the kernel for the gradient of queries.
      dq_stages: the same.
      dkv_queries: the same of that for the gradients of keys and values, which steps over queries.
      dkv_stages: the same.
    """

    keys: int = 128
    stages: int = 2
    dq_keys: int = 128
    dq_stages: int = 2
    dkv_queries: int = 64
    dkv_stages: int = 2

    def __post_init__(self) -> None:
        if {self.keys, self.dq_keys, self.dkv_queries} - {64, 128, 256}:  # wgmma's columns; whole ones in a tile
            raise ValueError(f"need blocks of 64, 128 or 256 keys or queries; got {self}")


# By the width of a head.
BLOCKS = {64: Blocks(stages=4, dq_stages=4, dkv_queries=128, dkv_stages=3), 128: Blocks(dkv_stages=4)}


def flash_attention(
    q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, *, causal: bool, blocks: Blocks | None = None
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v for each head, as `attention` has it, without its scores in memory.

    Dao, 2024 (arXiv:2307.08691) is the algorithm; Shah et al., 2024 (arXiv:2407.08608) the division of labour: one
    warpgroup's softmax runs while the other one has the tensor core.

    Args:
      q_BTHK: queries, bfloat16 or float16. B sequences, T positions, H heads, K head width: 64 or 128.
      k_BSGK: keys, S positions, G heads; G divides H, and query head h reads head h // (H // G). Same dtype.
      v_BSGK: values, of the keys' shape and dtype.
      causal: query t sees keys s <= t only; needs S = T.
      blocks: sizes in shared memory; None: those of `BLOCKS`.

    Returns:
      o_BTHK: weighted values, in q's dtype; softmax and sums are float32. Differentiable once in q, k, v.

    Raises:
      NotImplementedError: no GPU of compute capability 9 is there, or the head width is not one of these two.
      TypeError: another dtype.
      ValueError: shapes do not fit together.
    """
    pallas.require("mosaic")
    (B, T, H, K), (_, S, G, _) = q_BTHK.shape, k_BSGK.shape
    if k_BSGK.shape != (B, S, G, K) or v_BSGK.shape != k_BSGK.shape or H % G or 0 in (T, S):
        raise ValueError(f"q{q_BTHK.shape}, k{k_BSGK.shape} and v{v_BSGK.shape} do not fit together")
    if causal and S != T:
        raise ValueError(f"causal attention needs as many keys as queries; got {S} and {T}")
    return _attention(causal, _checked(blocks, q_BTHK, k_BSGK, v_BSGK), q_BTHK, k_BSGK, v_BSGK)


def packed_flash_attention(
    qkv_BTNK: jax.Array, n_heads: int, *, causal: bool, blocks: Blocks | None = None
) -> jax.Array:
    """`flash_attention` of one array that holds the heads of queries, keys and values, in this order.

    The kernels read the array, and write its gradient, in place of three copies of each. What is not said here is as
    in `flash_attention`.

    Args:
      qkv_BTNK: N = n_heads + 2G heads.
      n_heads: H, the heads of the queries.
      causal: as in `flash_attention`.
      blocks: as in `flash_attention`.

    Returns:
      o_BTHK, in the dtype of qkv.
    """
    pallas.require("mosaic")
    _, T, N, _ = qkv_BTNK.shape
    if n_heads < 1 or n_heads >= N or (N - n_heads) % 2 or n_heads % ((N - n_heads) // 2) or T == 0:
        raise ValueError(f"need qkv[B,T,H+2G,K] where G divides H; got {qkv_BTNK.shape} for H = {n_heads}")
    return _packed_attention(causal, _checked(blocks, qkv_BTNK), n_heads, qkv_BTNK)


def _checked(blocks: Blocks | None, *arrays_BTHK: jax.Array) -> Blocks:
    """The sizes for arrays that the kernels can take."""
    dtypes, K = {str(array.dtype) for array in arrays_BTHK}, arrays_BTHK[0].shape[-1]
    if dtypes not in ({"bfloat16"}, {"float16"}):
        raise TypeError(f"implementation='mosaic' takes bfloat16 or float16, one for all; got {sorted(dtypes)}")
    if K not in BLOCKS:
        raise NotImplementedError(f"implementation='mosaic' takes heads of width {sorted(BLOCKS)}; got {K}")
    return blocks or BLOCKS[K]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(causal: bool, blocks: Blocks, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array) -> jax.Array:
    return _attention_forward(causal, blocks, q_BTHK, k_BSGK, v_BSGK)[0]


def _attention_forward(
    causal: bool, blocks: Blocks, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    T, S = q_BTHK.shape[1], k_BSGK.shape[1]
    q, k, v = _padded(blocks, q_BTHK, k_BSGK, v_BSGK)
    o, log2_sum_BHT = _forward(q, k, v, sizes=_Sizes.of(causal, S, q, k), blocks=blocks)
    o_BTHK = o[:, :T]
    return o_BTHK, (q_BTHK, k_BSGK, v_BSGK, o_BTHK, log2_sum_BHT)


def _attention_backward(
    causal: bool, blocks: Blocks, saved: tuple[jax.Array, ...], do_BTHK: jax.Array
) -> tuple[jax.Array, ...]:
    q_BTHK, k_BSGK, v_BSGK, o_BTHK, log2_sum_BHT = saved
    T, S = q_BTHK.shape[1], k_BSGK.shape[1]
    q, k, v, o, do = _padded(blocks, q_BTHK, k_BSGK, v_BSGK, o_BTHK, do_BTHK)
    sizes, operands = _Sizes.of(causal, S, q, k), (q, k, v, do, log2_sum_BHT, _delta(o, do))
    dq = _gradient_of_queries(*operands, sizes=sizes, blocks=blocks)
    dk, dv = _gradients_of_keys(*operands, sizes=sizes, blocks=blocks)
    return dq[:, :T], dk[:, :S], dv[:, :S]


_attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _packed_attention(causal: bool, blocks: Blocks, n_heads: int, qkv_BTNK: jax.Array) -> jax.Array:
    return _packed_attention_forward(causal, blocks, n_heads, qkv_BTNK)[0]


def _packed_attention_forward(
    causal: bool, blocks: Blocks, n_heads: int, qkv_BTNK: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    T = qkv_BTNK.shape[1]
    (qkv,) = _padded(blocks, qkv_BTNK)
    o, log2_sum_BHT = _forward(qkv, qkv, qkv, sizes=_Sizes.of_packed(causal, T, n_heads, qkv), blocks=blocks)
    o_BTHK = o[:, :T]
    return o_BTHK, (qkv, o_BTHK, log2_sum_BHT)


def _packed_attention_backward(
    causal: bool, blocks: Blocks, n_heads: int, saved: tuple[jax.Array, ...], do_BTHK: jax.Array
) -> tuple[jax.Array]:
    qkv, o_BTHK, log2_sum_BHT = saved
    T = do_BTHK.shape[1]
    o, do = _padded(blocks, o_BTHK, do_BTHK)
    sizes = _Sizes.of_packed(causal, T, n_heads, qkv)
    operands = qkv, qkv, qkv, do, log2_sum_BHT, _delta(o, do)
    dqkv = _gradient_of_queries(*operands, sizes=sizes, blocks=blocks)
    (dqkv,) = _gradients_of_keys(*operands, dqkv, sizes=sizes, blocks=blocks)
    return (dqkv[:, :T],)


_packed_attention.defvjp(_packed_attention_forward, _packed_attention_backward)


def _delta(o_BTHK: jax.Array, do_BTHK: jax.Array) -> jax.Array:
    """What the softmax' gradient takes from each query's: sum_s p_ts dp_ts, in [B, H, T]."""
    return jnp.sum(o_BTHK.astype(jnp.float32) * do_BTHK.astype(jnp.float32), axis=-1).swapaxes(1, 2)


def _padded(blocks: Blocks, *arrays_BTHK: jax.Array) -> tuple[jax.Array, ...]:
    """With zeros up to whole blocks. Such keys are masked; such queries have zero cotangents, hence no effect."""
    whole = math.lcm(_TILE, blocks.keys, blocks.dq_keys, blocks.dkv_queries)
    return tuple(jnp.pad(x, ((0, 0), (0, -x.shape[1] % whole), (0, 0), (0, 0))) for x in arrays_BTHK)


class _Sizes(NamedTuple):
    """What every kernel knows of its operands, whose lengths are whole blocks."""

    causal: bool
    B: int
    T: int
    S: int
    H: int
    G: int
    K: int
    n_keys: int  # without the padding
    dtype: Any
    # Heads in front of the keys' and the values' in the arrays that hold them, and their gradients.
    k_heads: int = 0
    v_heads: int = 0

    @classmethod
    def of(cls, causal: bool, n_keys: int, q_BTHK: jax.Array, k_BSGK: jax.Array) -> "_Sizes":
        (B, T, H, K), (_, S, G, _) = q_BTHK.shape, k_BSGK.shape
        return cls(causal, B, T, S, H, G, K, n_keys, q_BTHK.dtype)

    @classmethod
    def of_packed(cls, causal: bool, n_keys: int, n_heads: int, qkv_BTNK: jax.Array) -> "_Sizes":
        B, T, N, K = qkv_BTNK.shape
        G = (N - n_heads) // 2
        return cls(causal, B, T, T, n_heads, G, K, n_keys, qkv_BTNK.dtype, k_heads=n_heads, v_heads=n_heads + G)

    @property
    def group(self) -> int:
        """How many heads of queries share one of keys."""
        return self.H // self.G

    @property
    def scale(self) -> float:
        """Of the scores whose power of two is taken."""
        return self.K**-0.5 * _LOG2_E

    def steps(self, first_query: jax.Array, keys: int) -> tuple[jax.Array, int]:
        """How many blocks of `keys` keys a tile of queries sees whole, and how many more it sees a part of."""
        if self.causal:
            return lax.div(first_query, jnp.int32(keys)), self.diagonal(keys)
        return jnp.int32(self.n_keys // keys), int(self.n_keys % keys > 0)

    def diagonal(self, block: int) -> int:
        """How many blocks of queries or keys the diagonal crosses in a tile."""
        return max(1, _TILE // block)

    def hide(self, scores: jax.Array, first_query: jax.Array, first_key: jax.Array, key_axis: int) -> jax.Array:
        """The scores, with -inf for keys that a query does not see."""
        rows, columns = (lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (0, 1))
        # What is known at run time is added to the rows: a thread has two of them, and many columns.
        if not self.causal:
            assert key_axis == 1
            visible = columns < self.n_keys - first_key
        elif key_axis == 1:
            visible = columns <= rows + (first_query - first_key)
        else:
            visible = columns >= rows + (first_key - first_query)
        return jnp.where(visible, scores, -jnp.inf)


class _Product(NamedTuple):
    """`plus` + a b. a: registers or shared memory, b: shared memory, to be read as its transpose or not."""

    a: Any
    b: Any
    transposed: bool = False
    plus: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.a.shape[0], self.b.shape[0 if self.transposed else 1]


def _multiply(products: Sequence[_Product], use: Callable[..., Any]) -> Any:
    """What `use` returns. It is given, for each product, a function that awaits and returns it.

    The tensor core has all of them to do when `use` begins, and does them in their order; await them in it.
    """
    if pallas.is_interpreted():  # the interpreter's wgmma takes neither registers nor transposes
        return use(*(functools.partial(_multiply_interpreted, product) for product in products))

    def issue(*sums: Any) -> Any:
        for ref, (_, _, _, plus) in zip(sums, products, strict=True):
            if plus is not None:
                ref[...] = plus
        for ref, (a, b, transposed, _) in zip(sums, products, strict=True):
            plgpu.wgmma(ref, a, b.T if transposed else b)
        # Of each, with how many of those after it still under way.
        load = plgpu.wgmma_accumulator_load
        return use(*(functools.partial(load, ref, wait_n=len(sums) - 1 - i) for i, ref in enumerate(sums)))

    return pl.run_scoped(issue, *(plgpu.ACC(product.shape, jnp.float32) for product in products))


def _multiply_interpreted(product: _Product) -> jax.Array:
    a, b = product.a[...], product.b[...]
    y = jnp.dot(a, b.T if product.transposed else b, preferred_element_type=jnp.float32)
    return y if product.plus is None else product.plus + y


def _all(*awaited: Callable[[], jax.Array]) -> list[jax.Array]:
    return [result() for result in awaited]


def _down(x_R: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """One number for each row."""
    return lax.broadcast_in_dim(x_R, shape, (0,))


def _across(x_C: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """One number for each column."""
    return lax.broadcast_in_dim(x_C, shape, (1,))


def _release(consumed: Any) -> None:
    """Lets the fetching warpgroup fill a slot again: what was read from it is in registers, or was multiplied."""
    if pallas.is_interpreted():
        # There ordinary loads stand for wgmma's. Those are of the same proxy as TMA and need no fence, and jax 0.11's
        # interpreter asks for one.
        plgpu.commit_smem()
    plgpu.barrier_arrive(consumed)


def _fetch(
    n_steps: jax.Array, stages: int, consumed: Sequence[Any], copy: Callable[[jax.Array, jax.Array], None]
) -> None:
    """All of the fetching warpgroup's work: `copy(step, slot)` for each step, into slots that were consumed."""
    plgpu.set_max_registers(_FETCHING_REGISTERS, action="decrease")

    # The last steps copy nothing: a block ends when all that was fetched has been consumed.
    def step(i: jax.Array, _: None) -> None:
        slot = lax.rem(i, jnp.int32(stages))

        @pl.when(i >= stages)
        def wait() -> None:
            for barrier in consumed:
                plgpu.barrier_wait(barrier.at[slot])

        @pl.when(i < n_steps)
        def fill() -> None:
            copy(i, slot)

    lax.fori_loop(jnp.int32(0), n_steps + stages, step, None)


def _kernel(
    sizes: _Sizes, body: Callable[..., None], out_type: Any | None, scratch: dict[str, Any], tiles: int, heads: int
) -> Callable[..., Any]:
    """`body` on a grid whose last axis changes fastest: the blocks at work are of one or two sequences, held in L2.

    Its outcome is new arrays of `out_type`; None: it writes into its last operand, and that array is returned, with
    the rest of it as it was.
    """
    name = f"ryot_attention_{body.__name__}"
    mesh: dict[str, Any] = {
        "grid": (sizes.B, tiles, heads),
        "grid_names": ("sequence", "tile", "head"),
        "num_threads": _COMPUTING + 1,
        "thread_name": "warpgroup",
        "kernel_name": name,
    }
    # This way of lowering finds the layouts of registers and of shared memory itself.
    parameters = plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup)
    options: dict[str, Any] = {"compiler_params": parameters, "interpret": pallas.mosaic_interpretation()}
    if out_type is not None:
        return plgpu.kernel(body, out_type=out_type, scratch_types=scratch, **mesh, **options)
    # What plgpu.kernel does, but for its batching: that takes no array to write into.
    scoped = pl.with_scoped(collective_axes="warpgroup", **scratch)(body)
    kernel = pl.kernel(scoped, mesh=plgpu.Mesh(**mesh), name=name, **options)

    def write(*operands: jax.Array) -> jax.Array:
        *inputs, into = operands
        if pallas.is_interpreted():  # jax 0.10's interpreter asks in which memory it is, which run_state cannot say
            ref = jax.new_ref(into, memory_space=plgpu.GMEM)
            kernel(*inputs, ref)
            return jax.freeze(ref)
        return pl.run_state(lambda ref: kernel(*inputs, ref))(into)

    return write if pallas.is_interpreted() else jax.custom_batching.sequential_vmap(write)


@pallas.lowered_once("sizes", "blocks")
def _forward(
    q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, *, sizes: _Sizes, blocks: Blocks
) -> tuple[jax.Array, jax.Array]:
    """o_BTHK, and the base-2 logarithm of the sum of 2**(scale q k), in [B, H, T]."""
    keys, stages, K = blocks.keys, blocks.stages, sizes.K

    def forward(
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
        # Causal tiles with the most work come first.
        tile = sizes.T // _TILE - 1 - lax.axis_index("tile")
        whole, n_masked = sizes.steps(tile * _TILE, keys)

        @pl.when(warpgroup < _COMPUTING)
        def compute() -> None:
            plgpu.set_max_registers(_COMPUTING_REGISTERS, action="increase")
            first_query = tile * _TILE + warpgroup * _ROWS
            mine = b, pl.ds(first_query, _ROWS), head
            q = q_smem.at[warpgroup]
            plgpu.copy_gmem_to_smem(q_ref.at[mine], q, q_ready.at[warpgroup])
            plgpu.barrier_wait(q_ready.at[warpgroup])

            def change_turns() -> None:
                plgpu.barrier_arrive(turn)
                plgpu.barrier_wait(turn)

            def step(i: jax.Array, carry: _Arrays, *, masked: bool) -> _Arrays:
                o_RK, max_R, sum_R = carry
                slot = lax.rem(i, jnp.int32(stages))

                def scores_issued(scores: Callable[[], jax.Array]) -> jax.Array:
                    change_turns()
                    return scores()

                plgpu.barrier_wait(k_ready.at[slot])
                s_RC = _multiply([_Product(q, k_smem.at[slot], transposed=True)], scores_issued)
                _release(k_consumed.at[slot])
                if masked:
                    s_RC = sizes.hide(s_RC, first_query, i * keys, key_axis=1)
                new_max_R = jnp.maximum(max_R, s_RC.max(axis=1) * sizes.scale)
                p_RC = jnp.exp2(s_RC * sizes.scale - _down(new_max_R, s_RC.shape))
                decay_R = jnp.exp2(max_R - new_max_R)
                sum_R = sum_R * decay_R + p_RC.sum(axis=1)
                o_RK = o_RK * _down(decay_R, o_RK.shape)
                p_RC, o_RK, sum_R, max_R = lax.optimization_barrier((p_RC.astype(sizes.dtype), o_RK, sum_R, new_max_R))
                plgpu.barrier_arrive(turn)
                plgpu.barrier_wait(v_ready.at[slot])
                plgpu.barrier_wait(turn)
                (o_RK,) = _multiply([_Product(p_RC, v_smem.at[slot], plus=o_RK)], _all)
                _release(v_consumed.at[slot])
                return o_RK, max_R, sum_R

            # One warpgroup is half a step behind: its softmax is due when the other's products are.
            pl.when(warpgroup == 1)(change_turns)
            carry: _Arrays = (
                jnp.zeros((_ROWS, K), jnp.float32),
                jnp.full((_ROWS,), -jnp.inf, jnp.float32),
                jnp.zeros((_ROWS,), jnp.float32),
            )
            carry = lax.fori_loop(jnp.int32(0), whole, functools.partial(step, masked=False), carry)
            for i in range(n_masked):  # not in a loop, out of which LLVM would take, and keep, all indices of keys
                carry = step(whole + i, carry, masked=True)
            o_RK, max_R, sum_R = carry
            pl.when(warpgroup == 0)(change_turns)

            q[...] = (o_RK / _down(sum_R, o_RK.shape)).astype(sizes.dtype)  # all that reads q is done
            sum_smem[warpgroup] = max_R + jnp.log(sum_R) * _LOG2_E
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q, o_ref.at[mine])
            plgpu.copy_smem_to_gmem(sum_smem.at[warpgroup], log2_sum_ref.at[b, head, pl.ds(first_query, _ROWS)])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(warpgroup == _COMPUTING)
        def fetch() -> None:
            def copy(i: jax.Array, slot: jax.Array) -> None:
                rows, theirs = pl.ds(i * keys, keys), lax.div(head, jnp.int32(sizes.group))
                k, v = k_ref.at[b, rows, sizes.k_heads + theirs], v_ref.at[b, rows, sizes.v_heads + theirs]
                plgpu.copy_gmem_to_smem(k, k_smem.at[slot], k_ready.at[slot])
                plgpu.copy_gmem_to_smem(v, v_smem.at[slot], v_ready.at[slot])

            _fetch(whole + n_masked, stages, [k_consumed, v_consumed], copy)

    scratch = {
        "q_smem": plgpu.SMEM((_COMPUTING, _ROWS, K), sizes.dtype),
        "k_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "v_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "sum_smem": plgpu.SMEM((_COMPUTING, _ROWS), jnp.float32),
        "q_ready": plgpu.Barrier(num_barriers=_COMPUTING),
        "k_ready": plgpu.Barrier(num_barriers=stages),
        "v_ready": plgpu.Barrier(num_barriers=stages),
        "k_consumed": plgpu.Barrier(num_arrivals=_COMPUTING, num_barriers=stages),
        "v_consumed": plgpu.Barrier(num_arrivals=_COMPUTING, num_barriers=stages),
        "turn": plgpu.Barrier(num_arrivals=_COMPUTING),
    }
    out = (
        jax.ShapeDtypeStruct((sizes.B, sizes.T, sizes.H, K), sizes.dtype),
        jax.ShapeDtypeStruct((sizes.B, sizes.H, sizes.T), jnp.float32),
    )
    return _kernel(sizes, forward, out, scratch, sizes.T // _TILE, sizes.H)(q_BTHK, k_BSGK, v_BSGK)


@pallas.lowered_once("sizes", "blocks")
def _gradient_of_queries(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    do_BTHK: jax.Array,
    log2_sum_BHT: jax.Array,
    delta_BHT: jax.Array,
    *,
    sizes: _Sizes,
    blocks: Blocks,
) -> jax.Array:
    """dq, in an array of the shape of queries': each tile of queries steps over the keys that it sees."""
    keys, stages, K = blocks.dq_keys, blocks.dq_stages, sizes.K

    def gradient_of_queries(
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
        tile = sizes.T // _TILE - 1 - lax.axis_index("tile")
        whole, n_masked = sizes.steps(tile * _TILE, keys)

        @pl.when(warpgroup < _COMPUTING)
        def compute() -> None:
            plgpu.set_max_registers(_COMPUTING_REGISTERS, action="increase")
            first_query = tile * _TILE + warpgroup * _ROWS
            mine, mine_of_sums = (b, pl.ds(first_query, _ROWS), head), (b, head, pl.ds(first_query, _ROWS))
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
                        s_RC = sizes.hide(s_RC, first_query, i * keys, key_axis=1)
                    return jnp.exp2(s_RC * sizes.scale - _down(log2_sum_R, s_RC.shape)), dp()

                plgpu.barrier_wait(ready.at[slot])
                p_RC, dp_RC = _multiply(
                    [
                        _Product(q, k_smem.at[slot], transposed=True),
                        _Product(do, v_smem.at[slot], transposed=True),
                    ],
                    weights_and_their_gradient,
                )
                ds_RC = p_RC * (dp_RC - _down(delta_R, dp_RC.shape))
                (dq_RK,) = _multiply([_Product(ds_RC.astype(sizes.dtype), k_smem.at[slot], plus=dq_RK)], _all)
                _release(consumed.at[slot])
                return dq_RK

            dq_RK = jnp.zeros((_ROWS, K), jnp.float32)
            dq_RK = lax.fori_loop(jnp.int32(0), whole, functools.partial(step, masked=False), dq_RK)
            for i in range(n_masked):
                dq_RK = step(whole + i, dq_RK, masked=True)
            q[...] = (dq_RK * K**-0.5).astype(sizes.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q, dq_ref.at[mine])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(warpgroup == _COMPUTING)
        def fetch() -> None:
            def copy(i: jax.Array, slot: jax.Array) -> None:
                rows, theirs = pl.ds(i * keys, keys), lax.div(head, jnp.int32(sizes.group))
                k, v = k_ref.at[b, rows, sizes.k_heads + theirs], v_ref.at[b, rows, sizes.v_heads + theirs]
                plgpu.copy_gmem_to_smem(k, k_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(v, v_smem.at[slot], ready.at[slot])

            _fetch(whole + n_masked, stages, [consumed], copy)

    scratch = {
        "q_smem": plgpu.SMEM((_COMPUTING, _ROWS, K), sizes.dtype),
        "do_smem": plgpu.SMEM((_COMPUTING, _ROWS, K), sizes.dtype),
        "sum_smem": plgpu.SMEM((_COMPUTING, _ROWS), jnp.float32),
        "delta_smem": plgpu.SMEM((_COMPUTING, _ROWS), jnp.float32),
        "k_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "v_smem": plgpu.SMEM((stages, keys, K), sizes.dtype),
        "own_ready": plgpu.Barrier(num_arrivals=4, num_barriers=_COMPUTING),
        "ready": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "consumed": plgpu.Barrier(num_arrivals=_COMPUTING, num_barriers=stages),
    }
    out = jax.ShapeDtypeStruct(q_BTHK.shape, sizes.dtype)
    run = _kernel(sizes, gradient_of_queries, out, scratch, sizes.T // _TILE, sizes.H)
    return run(q_BTHK, k_BSGK, v_BSGK, do_BTHK, log2_sum_BHT, delta_BHT)


@pallas.lowered_once("sizes", "blocks")
def _gradients_of_keys(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    do_BTHK: jax.Array,
    log2_sum_BHT: jax.Array,
    delta_BHT: jax.Array,
    into: jax.Array | None = None,
    *,
    sizes: _Sizes,
    blocks: Blocks,
) -> tuple[jax.Array, ...]:
    """dk_BSGK and dv_BSGK: each tile of keys steps over the queries that see it, of all heads that read it.

    Both are written to `into`, which is returned, where that is given.

    Scores are transposed: rows are keys, so that weights are where the products with dO and Q need them, in registers.
    """
    queries, stages, K = blocks.dkv_queries, blocks.dkv_stages, sizes.K

    def gradients_of_keys(
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
        first_block = lax.div(tile * _TILE, jnp.int32(queries)) if sizes.causal else jnp.int32(0)
        # Padded keys need no mask: their rows are cut off.
        n_masked = sizes.diagonal(queries) if sizes.causal else 0
        n_blocks = sizes.T // queries
        n_steps = n_blocks - first_block  # of each head

        @pl.when(warpgroup < _COMPUTING)
        def compute() -> None:
            plgpu.set_max_registers(_COMPUTING_REGISTERS, action="increase")
            first_key = tile * _TILE + warpgroup * _ROWS
            rows = pl.ds(first_key, _ROWS)
            my_keys, my_values = (b, rows, sizes.k_heads + head), (b, rows, sizes.v_heads + head)
            k, v, own = k_smem.at[warpgroup], v_smem.at[warpgroup], own_ready.at[warpgroup]
            plgpu.copy_gmem_to_smem(k_ref.at[my_keys], k, own)
            plgpu.copy_gmem_to_smem(v_ref.at[my_values], v, own)
            plgpu.barrier_wait(own)

            def step(i: jax.Array, carry: _Arrays, *, masked: bool, before: jax.Array) -> _Arrays:
                """`before`: steps of the heads that are done."""
                dk_RK, dv_RK = carry
                slot = lax.rem(before + i - first_block, jnp.int32(stages))

                def weights_and_their_gradient(
                    scores: Callable[[], jax.Array], dp: Callable[[], jax.Array]
                ) -> tuple[jax.Array, jax.Array]:
                    s_RC = scores()
                    if masked:
                        s_RC = sizes.hide(s_RC, i * queries, first_key, key_axis=0)
                    return jnp.exp2(s_RC * sizes.scale - _across(sum_smem[slot], s_RC.shape)), dp()

                plgpu.barrier_wait(ready.at[slot])
                p_RC, dp_RC = _multiply(
                    [
                        _Product(k, q_smem.at[slot], transposed=True),
                        _Product(v, do_smem.at[slot], transposed=True),
                    ],
                    weights_and_their_gradient,
                )
                ds_RC = p_RC * (dp_RC - _across(delta_smem[slot], dp_RC.shape))
                dv_RK, dk_RK = _multiply(
                    [
                        _Product(p_RC.astype(sizes.dtype), do_smem.at[slot], plus=dv_RK),
                        _Product(ds_RC.astype(sizes.dtype), q_smem.at[slot], plus=dk_RK),
                    ],
                    _all,
                )
                _release(consumed.at[slot])
                return dk_RK, dv_RK

            def of_head(member: jax.Array, carry: _Arrays) -> _Arrays:
                before = member * n_steps
                for i in range(n_masked):
                    carry = step(first_block + i, carry, masked=True, before=before)
                unmasked = functools.partial(step, masked=False, before=before)
                return lax.fori_loop(first_block + n_masked, jnp.int32(n_blocks), unmasked, carry)

            zeros = jnp.zeros((_ROWS, K), jnp.float32)
            dk_RK, dv_RK = lax.fori_loop(jnp.int32(0), jnp.int32(sizes.group), of_head, (zeros, zeros))
            k[...] = (dk_RK * K**-0.5).astype(sizes.dtype)
            v[...] = dv_RK.astype(sizes.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(k, dk_ref.at[my_keys])
            plgpu.copy_smem_to_gmem(v, dv_ref.at[my_values])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(warpgroup == _COMPUTING)
        def fetch() -> None:
            def copy(i: jax.Array, slot: jax.Array) -> None:
                query_head = head * sizes.group + lax.div(i, n_steps)
                rows = pl.ds((first_block + lax.rem(i, n_steps)) * queries, queries)
                plgpu.copy_gmem_to_smem(q_ref.at[b, rows, query_head], q_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(do_ref.at[b, rows, query_head], do_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(log2_sum_ref.at[b, query_head, rows], sum_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(delta_ref.at[b, query_head, rows], delta_smem.at[slot], ready.at[slot])

            _fetch(n_steps * sizes.group, stages, [consumed], copy)

    scratch = {
        "k_smem": plgpu.SMEM((_COMPUTING, _ROWS, K), sizes.dtype),
        "v_smem": plgpu.SMEM((_COMPUTING, _ROWS, K), sizes.dtype),
        "q_smem": plgpu.SMEM((stages, queries, K), sizes.dtype),
        "do_smem": plgpu.SMEM((stages, queries, K), sizes.dtype),
        "sum_smem": plgpu.SMEM((stages, queries), jnp.float32),
        "delta_smem": plgpu.SMEM((stages, queries), jnp.float32),
        "own_ready": plgpu.Barrier(num_arrivals=2, num_barriers=_COMPUTING),
        "ready": plgpu.Barrier(num_arrivals=4, num_barriers=stages),
        "consumed": plgpu.Barrier(num_arrivals=_COMPUTING, num_barriers=stages),
    }
    operands = q_BTHK, k_BSGK, v_BSGK, do_BTHK, log2_sum_BHT, delta_BHT
    outs = None if into is not None else (jax.ShapeDtypeStruct((sizes.B, sizes.S, sizes.G, K), sizes.dtype),) * 2
    run = _kernel(sizes, gradients_of_keys, outs, scratch, sizes.S // _TILE, sizes.G)
    if into is not None:
        return (run(*operands, into),)
    dk_BSGK, dv_BSGK = run(*operands)
    return dk_BSGK, dv_BSGK
