"""Continue prompts: prefill, then one compiled loop over a plain KV cache.

All prompts of a call have one length; the weights are used as they are, with the reference kernels.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression.compressed import decode
from ryot_jax.decoding.sampling import greedy, sample
from ryot_jax.kernels import KernelPlan
from ryot_jax.model import ModelConfig, functional
from ryot_jax.model.cache import Cache, empty_cache
from ryot_jax.runtime.compiler import without_ynn
from ryot_jax.runtime.errors import ConfigError


def generate(
    graphdef: functional.GraphDef,
    params: functional.Params,
    cfg: ModelConfig,
    prompt_ids_BS: jax.Array | np.ndarray,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Generate `max_new_tokens` tokens after each prompt: ids_BN, int32[B, max_new_tokens], without the prompt.

    `params` may hold compressed arrays, which are decoded once a call. `temperature` 0 is greedy; above 0, tokens
    are drawn with `key` from the `top_k` most likely ones (0: from all).
    Compiles once for each (B, S, max_new_tokens, top_k, greedy or not). Raises ConfigError where an argument cannot
    be used; above all where prompt and new tokens together exceed `cfg.max_len`: the model has never seen such
    positions (and has no weights for them where they are learned), so the window is not moved silently.
    """
    prompt_ids_BS = _checked_prompt(prompt_ids_BS, cfg, max_new_tokens)
    if not (np.isfinite(temperature) and temperature >= 0.0):
        raise ConfigError(f"temperature = {temperature}: must be finite and at least 0 (0 is greedy)")
    if not 0 <= top_k <= cfg.vocab_size:
        raise ConfigError(f"top_k = {top_k}: must lie in 0 (all tokens) to model.vocab_size = {cfg.vocab_size}")
    if temperature > 0.0 and key is None:
        raise ConfigError(f"temperature = {temperature}: sampling needs a key; give one or use temperature 0")
    loop = _compiled_loop(next(iter(jax.tree.leaves(params)[0].devices())).platform)
    is_greedy = temperature == 0.0
    return loop(
        graphdef,
        cfg,
        max_new_tokens,
        is_greedy,
        0 if is_greedy else top_k,
        params,
        prompt_ids_BS,
        jnp.float32(temperature),
        jax.random.key(0) if key is None else key,
    )


def _loop(
    graphdef: functional.GraphDef,
    cfg: ModelConfig,
    max_new_tokens: int,
    is_greedy: bool,
    top_k: int,
    params: functional.Params,
    prompt_ids_BS: jax.Array,
    temperature: jax.Array,
    key: jax.Array,
) -> jax.Array:
    # Once for all tokens; the codes are what lies in memory between two calls.
    params = decode(params)
    if cfg.scan_layers:
        # Sliced once here: inside the loop, each step would copy every layer's weights out of the stack.
        cfg, params = functional.unstack_layers(cfg, params)
        graphdef = functional.graph(cfg)
    plan = KernelPlan()

    # Transposed once, before the loop: up to half as many tokens/s more on a CPU at batch sizes from 4 to 8.
    w_DV = functional.unembedding(graphdef, params).T.astype(cfg.dtype)

    def next_token(x_BD: jax.Array, step: jax.Array | int) -> jax.Array:
        logits_BV = jnp.matmul(x_BD, w_DV, preferred_element_type=jnp.float32)
        if is_greedy:
            return greedy(logits_BV)
        return sample(logits_BV, jax.random.fold_in(key, step), temperature=temperature, top_k=top_k)

    def step(carry: tuple[jax.Array, Cache], i: jax.Array) -> tuple[tuple[jax.Array, Cache], jax.Array]:
        token_B, cache = carry
        x_BSD, cache = functional.advance(graphdef, params, token_B[:, None], cache, plan=plan)
        token_B = next_token(x_BSD[:, 0], i)
        return (token_B, cache), token_B

    B, S = prompt_ids_BS.shape
    # The last token is never fed back, so the cache needs no room for it.
    cache = empty_cache(cfg, B, S + max_new_tokens - 1)
    x_BSD, cache = functional.advance(graphdef, params, prompt_ids_BS, cache, plan=plan)
    first_B = next_token(x_BSD[:, -1], 0)
    _, rest_NB = jax.lax.scan(step, (first_B, cache), jnp.arange(1, max_new_tokens))
    return jnp.concatenate([first_B[:, None], rest_NB.T], axis=1)


@functools.cache
def _compiled_loop(platform: str) -> Callable[..., jax.Array]:
    # A decoding step is many tiny operations, and entering a YNN fusion costs more than one of them: without, the
    # scaled run's model decodes 5.5 times as fast at batch 1, but 16 % slower at batch 32 (jaxlib 0.10.2, 2 cores).
    # One sequence is what people wait for, so this program is compiled without them at every batch size.
    return jax.jit(_loop, static_argnums=range(5), compiler_options=without_ynn(platform))


def _checked_prompt(prompt_ids_BS: jax.Array | np.ndarray, cfg: ModelConfig, max_new_tokens: int) -> jax.Array:
    ids = np.asarray(prompt_ids_BS)
    if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ConfigError(f"prompt of shape {ids.shape}, {ids.dtype}: must be integers [B, S] with at least one token")
    if ids.min() < 0 or ids.max() >= cfg.vocab_size:
        raise ConfigError(
            f"prompt has token ids {ids.min()} to {ids.max()}: must lie below model.vocab_size = {cfg.vocab_size}; "
            "encode it with the tokenizer of the run"
        )
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens = {max_new_tokens}: must be at least 1")
    if ids.shape[1] + max_new_tokens > cfg.max_len:
        raise ConfigError(
            f"max_new_tokens = {max_new_tokens}: with a prompt of {ids.shape[1]} tokens exceeds model.max_len = "
            f"{cfg.max_len}; ask for at most {max(cfg.max_len - ids.shape[1], 0)} or shorten the prompt"
        )
    return jnp.asarray(ids, jnp.int32)
