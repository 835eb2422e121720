"""A model prepared for decoding: its weights in the form that steps read, and one step over a cache.

Two engines share one interface: `cpu` is the C++ kernel, `reference` the unchanged model on any device.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.compression.compressed import decode
from ryot_jax.decoding.sampling import greedy
from ryot_jax.kernels import cpu
from ryot_jax.kernels.decoding.step import StepCache, decode_step, empty_step_cache, pack_weights
from ryot_jax.model import ModelConfig, functional
from ryot_jax.model.cache import Cache, empty_cache
from ryot_jax.model.step_weights import step_weights
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runtime.errors import ConfigError

AnyCache = Cache | StepCache
ENGINES = ("reference", "cpu")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoder:
    """A model that can decode: a pytree, to be made once with `prepare` and given to `generate` and `stream`.

    Attributes:
      weights: the weights in the form of the engine.
      cfg: config of the model, with unstacked layers.
      engine: 'reference' or 'cpu'.
      dtype: dtype of products with weights.
    """

    weights: Any
    cfg: ModelConfig = dataclasses.field(metadata={"static": True})
    engine: str = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})

    @property
    def platform(self) -> str:
        """The platform of the device that holds the weights."""
        return _platform(self.weights)


def prepare(params: functional.Params, cfg: ModelConfig, *, engine: str = "auto", dtype: str = "auto") -> Decoder:
    """Prepares a model for decoding; once for all calls of `generate` and `stream`.

    Args:
      params: of the model, layers stacked or not; compressed arrays in it are decoded here.
      cfg: of the model.
      engine: 'cpu' (C++), 'reference' (the model as it is), or 'auto': cpu where it can run.
      dtype: of the cpu engine's products and cache: 'float32', 'bfloat16', or 'auto': bfloat16 where the processor
        multiplies it, which training's kernels do as well. The reference engine computes in the model's dtype.

    Raises:
      ConfigError: the engine cannot run here or not in that dtype, with the reason.
    """
    engine, dtype = _resolved(engine, dtype, cfg, _platform(params))
    unstacked = dataclasses.replace(cfg, scan_layers=False)
    return Decoder(_prepared_weights(engine, dtype, cfg, params), unstacked, engine, dtype)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _prepared_weights(engine: str, dtype: str, cfg: ModelConfig, params: functional.Params) -> Any:
    params = decode(params)
    if engine == "cpu":
        return pack_weights(*step_weights(cfg, params), dtype)
    # Layers are sliced once here: inside a loop, each step would copy every layer's weights out of the stack.
    cfg, params = functional.unstack_layers(cfg, params)
    # So is the transpose: up to half as many tokens/s more on a CPU at batch sizes from 4 to 8.
    w_DV = functional.unembedding(functional.graph(cfg), params).T.astype(cfg.dtype)
    return {"params": params, "w_DV": w_DV}


def new_cache(decoder: Decoder, batch_size: int, capacity: int) -> AnyCache:
    """An empty cache for at least `capacity` positions."""
    if decoder.engine == "cpu":
        return empty_step_cache(decoder.weights, batch_size, capacity)
    return empty_cache(decoder.cfg, batch_size, capacity)


def step(
    decoder: Decoder,
    tokens_BS: jax.Array,
    length_B: jax.Array,
    count_B: jax.Array,
    cache: AnyCache,
    *,
    with_logits: bool = False,
    last_only: bool = False,
) -> tuple[jax.Array, jax.Array | None, AnyCache]:
    """Predicts what follows each of the first `count_B` of S new tokens; see `kernels.decoding.step.decode_step`.

    Returns best_BS (int32), logits_BSV (float32, or None), and the cache. Where a sequence has no more room the
    reference gives NaN and token 0; the kernel raises.
    """
    if isinstance(cache, StepCache):
        return decode_step(
            decoder.weights, tokens_BS, length_B, count_B, cache, with_logits=with_logits, last_only=last_only
        )
    cache = dataclasses.replace(cache, length_B=length_B)
    graphdef = functional.graph(decoder.cfg)
    x_BSD, cache = functional.advance(graphdef, decoder.weights["params"], tokens_BS, cache, plan=KernelPlan())
    if last_only:
        x_BSD = jnp.take_along_axis(x_BSD, jnp.maximum(count_B - 1, 0)[:, None, None], axis=1)
    logits_BSV = jnp.matmul(x_BSD, decoder.weights["w_DV"], preferred_element_type=jnp.float32)
    return greedy(logits_BSV), logits_BSV if with_logits else None, cache


def _platform(arrays: Any) -> str:
    platform: str = next(iter(jax.tree.leaves(arrays)[0].devices())).platform
    return platform


def _resolved(engine: str, dtype: str, cfg: ModelConfig, platform: str) -> tuple[str, str]:
    if engine not in ("auto", *ENGINES):
        raise ConfigError(f"engine = {engine!r}: choose one of auto, {', '.join(ENGINES)}")
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"dtype = {dtype!r}: choose one of auto, float32, bfloat16")
    # Decoding keeps no arrays in memory between its ops: bfloat16 is for products alone.
    automatic = ("bfloat16", "float32") if cpu.multiplies_bfloat16() else ("float32",)
    wanted = automatic if dtype == "auto" else (dtype,)
    reasons = [cpu.unavailable_reason(name) for name in wanted]
    if platform != "cpu":
        reasons = [f"the C++ kernels run on the CPU, and the weights are on {platform}"]
    usable = [name for name, reason in zip(wanted, reasons, strict=False) if reason is None]
    if engine == "cpu" and not usable:
        raise ConfigError(f"engine = 'cpu': {reasons[-1]}; use 'auto' or 'reference'")
    if usable and engine != "reference":
        return "cpu", usable[0]
    if dtype not in ("auto", cfg.compute_dtype):
        raise ConfigError(
            f"dtype = {dtype!r}: the reference engine computes in model.compute_dtype = {cfg.compute_dtype!r}"
        )
    return "reference", cfg.compute_dtype
