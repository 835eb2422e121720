"""Parts shared by the three kernels of Mosaic's attention: sizes, products, the fetching warpgroup and the grid."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ryot_jax.kernels.gpu import pallas

ROWS = 64  # rows of a warpgroup: wgmma's
COMPUTING = 2  # computing warpgroups; one more fetches
TILE = COMPUTING * ROWS  # rows of a block of the grid: queries, or keys for their gradients
# Registers per thread; the three warpgroups share 504, in steps of 8.
COMPUTING_REGISTERS, _FETCHING_REGISTERS = 240, 24
LOG2_E = math.log2(math.e)

Arrays = tuple[jax.Array, ...]


class Sizes(NamedTuple):
    """Static description of a kernel's operands, whose lengths are padded to whole tiles."""

    causal: bool
    B: int
    T: int
    S: int
    H: int
    G: int
    K: int
    n_keys: int  # without the padding
    dtype: Any
    # Index of the first head of keys, and of values, in the arrays that hold them and their gradients.
    k_heads: int = 0
    v_heads: int = 0

    @classmethod
    def of(cls, causal: bool, n_keys: int, q_BTHK: jax.Array, k_BSGK: jax.Array) -> "Sizes":
        """Sizes of separate arrays, of whose keys the first `n_keys` are not padding."""
        (B, T, H, K), (_, S, G, _) = q_BTHK.shape, k_BSGK.shape
        return cls(causal, B, T, S, H, G, K, n_keys, q_BTHK.dtype)

    @classmethod
    def of_packed(cls, causal: bool, n_keys: int, n_heads: int, qkv_BTNK: jax.Array) -> "Sizes":
        """Sizes of one array that holds H = `n_heads` heads of queries, then those of keys and of values."""
        B, T, N, K = qkv_BTNK.shape
        G = (N - n_heads) // 2
        return cls(causal, B, T, T, n_heads, G, K, n_keys, qkv_BTNK.dtype, k_heads=n_heads, v_heads=n_heads + G)

    @property
    def group(self) -> int:
        """The number of query heads that share a key head."""
        return self.H // self.G

    @property
    def scale(self) -> float:
        """Factor of the scores for a softmax in powers of two: log2(e) / sqrt(K)."""
        return self.K**-0.5 * LOG2_E

    def steps(self, first_query: jax.Array, keys: int) -> tuple[jax.Array, int]:
        """The numbers of chunks of `keys` keys that a tile of queries sees in whole, and in part after these."""
        if self.causal:
            return lax.div(first_query, jnp.int32(keys)), self.diagonal(keys)
        return jnp.int32(self.n_keys // keys), int(self.n_keys % keys > 0)

    def diagonal(self, block: int) -> int:
        """The number of chunks of `block` queries or keys that the diagonal crosses in a tile."""
        return max(1, TILE // block)

    def mask_scores(self, scores: jax.Array, first_query: jax.Array, first_key: jax.Array, key_axis: int) -> jax.Array:
        """The scores, with -inf for keys that a query does not see."""
        rows, columns = (lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (0, 1))
        # Run-time offsets are added to the rows: a thread has two of them, and many columns.
        if not self.causal:
            assert key_axis == 1
            visible = columns < self.n_keys - first_key
        elif key_axis == 1:
            visible = columns <= rows + (first_query - first_key)
        else:
            visible = columns >= rows + (first_key - first_query)
        return jnp.where(visible, scores, -jnp.inf)


class Product(NamedTuple):
    """The product `plus` + a b. a: registers or shared memory; b: shared memory, read as its transpose or not."""

    a: Any
    b: Any
    transposed: bool = False
    plus: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        return self.a.shape[0], self.b.shape[0 if self.transposed else 1]


def multiply(products: Sequence[Product], use: Callable[..., Any]) -> Any:
    """Issue the products, call `use` with a function per product that awaits and returns it, and return its result.

    All products are queued on the tensor core before `use` begins, and are computed in order; `use` awaits all of them.
    """
    if pallas.is_interpreted():  # the interpreter's wgmma takes neither registers nor transposes
        return use(*(functools.partial(_multiply_interpreted, product) for product in products))

    def issue(*sums: Any) -> Any:
        for ref, (_, _, _, plus) in zip(sums, products, strict=True):
            if plus is not None:
                ref[...] = plus
        for ref, (a, b, transposed, _) in zip(sums, products, strict=True):
            plgpu.wgmma(ref, a, b.T if transposed else b)
        # Each is awaited with the later ones still under way.
        load = plgpu.wgmma_accumulator_load
        return use(*(functools.partial(load, ref, wait_n=len(sums) - 1 - i) for i, ref in enumerate(sums)))

    return pl.run_scoped(issue, *(plgpu.ACC(product.shape, jnp.float32) for product in products))


def _multiply_interpreted(product: Product) -> jax.Array:
    a, b = product.a[...], product.b[...]
    y = jnp.dot(a, b.T if product.transposed else b, preferred_element_type=jnp.float32)
    return y if product.plus is None else product.plus + y


def wait_all(*awaited: Callable[[], jax.Array]) -> list[jax.Array]:
    """Await all products, in order, and return them."""
    return [result() for result in awaited]


def broadcast_rows(x_R: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast one number per row to `shape`."""
    return lax.broadcast_in_dim(x_R, shape, (0,))


def broadcast_columns(x_C: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast one number per column to `shape`."""
    return lax.broadcast_in_dim(x_C, shape, (1,))


def release(consumed: Any) -> None:
    """Let the fetching warpgroup refill a slot, whose contents are in registers or have been multiplied."""
    if pallas.is_interpreted():
        # The interpreter replaces wgmma's loads, which use the same proxy as TMA and need no fence, by ordinary ones,
        # for which jax 0.11's asks for a fence.
        plgpu.commit_smem()
    plgpu.barrier_arrive(consumed)


def fetch_steps(
    n_steps: jax.Array, stages: int, consumed: Sequence[Any], copy: Callable[[jax.Array, jax.Array], None]
) -> None:
    """Run the fetching warpgroup: `copy(step, slot)` for each step, once the slot has been consumed."""
    plgpu.set_max_registers(_FETCHING_REGISTERS, action="decrease")

    # The last steps copy nothing: a block ends when everything fetched has been consumed.
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


def kernel_of(
    sizes: Sizes, body: Callable[..., None], out_type: Any | None, scratch: dict[str, Any], tiles: int, heads: int
) -> Callable[..., Any]:
    """A kernel that runs `body` on a grid whose last axis changes fastest, so that L2 holds the sequences in progress.

    It returns new arrays of `out_type`; None: it writes into its last operand and returns it, with the rest of it
    unchanged.
    """
    name = f"ryot_{body.__name__}"
    mesh: dict[str, Any] = {
        "grid": (sizes.B, tiles, heads),
        "grid_names": ("sequence", "tile", "head"),
        "num_threads": COMPUTING + 1,
        "thread_name": "warpgroup",
        "kernel_name": name,
    }
    # Warpgroup semantics infer the layouts of registers and of shared memory.
    parameters = plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup)
    options: dict[str, Any] = {"compiler_params": parameters, "interpret": pallas.mosaic_interpretation()}
    if out_type is not None:
        return plgpu.kernel(body, out_type=out_type, scratch_types=scratch, **mesh, **options)
    # plgpu.kernel without its batching, which does not support an array to write into.
    scoped = pl.with_scoped(collective_axes="warpgroup", **scratch)(body)
    kernel = pl.kernel(scoped, mesh=plgpu.Mesh(**mesh), name=name, **options)

    def write(*operands: jax.Array) -> jax.Array:
        *inputs, into = operands
        if pallas.is_interpreted():  # jax 0.10's interpreter needs a memory space, which run_state cannot give
            ref = jax.new_ref(into, memory_space=plgpu.GMEM)
            kernel(*inputs, ref)
            return jax.freeze(ref)
        return pl.run_state(lambda ref: kernel(*inputs, ref))(into)

    return write if pallas.is_interpreted() else jax.custom_batching.sequential_vmap(write)
