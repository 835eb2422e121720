"""Functions in the spellings of several libraries, each with the op that it is."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

B, T, H, K, D, F, V = 2, 6, 2, 4, 8, 12, 11
CAUSAL = jnp.tril(jnp.ones((T, T), bool))
TARGETS = jnp.array([[0, 3, 10, 5, -1, 2], [7, 7, 1, 0, 4, 9]])

NORMS: dict[str, tuple[Callable[..., jax.Array], str]] = {}
ATTENTIONS: dict[str, tuple[Callable[..., jax.Array], str]] = {}
LAYERS: dict[str, tuple[Callable[..., jax.Array], str]] = {}
LOSSES: dict[str, tuple[Callable[..., jax.Array], str]] = {}
LOOK_UPS: dict[str, tuple[Callable[..., jax.Array], str]] = {}


def _norm(words: str):
    return lambda function: NORMS.setdefault(function.__name__, (function, words)) and function


@_norm("layer norm")
def linen(x, g, b):
    return nn.LayerNorm().apply({"params": {"scale": g, "bias": b}}, x)


@_norm("layer norm")
def linen_slow_variance(x, g, b):
    return nn.LayerNorm(use_fast_variance=False).apply({"params": {"scale": g, "bias": b}}, x)


@_norm("layer norm")
def linen_without_bias(x, g, b):
    return nn.LayerNorm(use_bias=False).apply({"params": {"scale": g}}, x) + 0 * b


@_norm("layer norm")
def standardized(x, g, b):
    return jax.nn.standardize(x, epsilon=1e-5) * g + b


@_norm("layer norm")
def equinox(x, g, b):
    mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return g * ((x - mean) * jax.lax.rsqrt(jnp.maximum(0.0, variance) + 1e-5)) + b


@_norm("layer norm")
def haiku(x, g, b):
    mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    inverse = g * jax.lax.rsqrt(variance + 1e-5)
    return inverse * (x - mean) + b


@_norm("layer norm")
def divided(x, g, b):
    mean = jnp.sum(x, -1)[..., None] / D
    variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-6) * g + b


@_norm("layer norm")
def of_a_sum(x, g, b):
    return linen(x + jnp.tanh(x), g, b)


@_norm("rms norm")
def linen_rms(x, g, b):
    return nn.RMSNorm().apply({"params": {"scale": g}}, x) + 0 * b


@_norm("rms norm")
def llama(x, g, b):
    return g * (x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)) + 0 * b


@_norm("rms norm")
def gemma(x, g, b):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * (1 + g) + 0 * b


def _attention(words: str):
    return lambda function: ATTENTIONS.setdefault(function.__name__, (function, words)) and function


@_attention("attention, causal")
def library(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


@_attention("attention, not causal")
def library_not_causal(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


@_attention("attention, causal, window 3")
def library_window(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(2, 0))


@_attention("attention, causal")
def linen_masked(q, k, v):
    mask = nn.combine_masks(
        nn.make_causal_mask(jnp.ones((B, T))), nn.make_attention_mask(jnp.ones((B, T)), jnp.ones((B, T)))
    )
    return nn.dot_product_attention(q, k, v, mask=mask)


@_attention("attention, causal")
def heads_first(q, k, v):
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(K)
    return (jax.nn.softmax(jnp.where(CAUSAL, scores, -jnp.inf)) @ v).transpose(0, 2, 1, 3)


@_attention("attention, causal")
def scaled_queries(q, k, v):
    scores = jnp.einsum("bthk,bshk->bhts", q * 0.3, k)
    scores = jnp.where(jnp.arange(T)[:, None] < jnp.arange(T), -1e30, scores)
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v)


@_attention("attention, causal")
def summand(q, k, v):
    bias = jnp.where(CAUSAL, 0.0, -1e9)
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) * 0.5 + bias), v)


@_attention("attention, causal")
def hidden_times(q, k, v):
    scores = jnp.einsum("bthk,bshk->bhts", q, k) - 1e10 * (1.0 - CAUSAL.astype(jnp.float32))
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v)


@_attention("attention, causal")
def softmax_by_hand(q, k, v):
    scores = jnp.where(CAUSAL, jnp.einsum("bthk,bshk->bhts", q, k), -1e10)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return jnp.einsum("bhts,bshk->bthk", weights / weights.sum(-1, keepdims=True), v)


@_attention("attention, causal")
def shared_keys(q, k, v):
    k, v = (jnp.repeat(x[:, :, :1], H, axis=2) for x in (k, v))
    return library(q, k, v)


@_attention("attention, causal")
def shared_keys_by_group(q, k, v):
    scores = jnp.einsum("btghk,bsgk->bghts", q.reshape(B, T, 1, H, K), k[:, :, :1]) / math.sqrt(K)
    weights = jax.nn.softmax(jnp.where(CAUSAL, scores, -1e30))
    return jnp.einsum("bghts,bsgk->btghk", weights, v[:, :, :1]).reshape(B, T, H, K)


@_attention("attention, causal")
def without_batch(q, k, v):
    return jax.vmap(lambda q, k, v: library(q[None], k[None], v[None])[0])(q, k, v)


def _layer(words: str):
    return lambda function: LAYERS.setdefault(function.__name__, (function, words)) and function


@_layer("dense")
def linen_dense(x, w, b):
    return nn.Dense(F).apply({"params": {"kernel": w, "bias": b}}, x)


@_layer("dense")
def without_bias(x, w, b):
    return x @ w + 0 * b


@_layer("dense")
def weights_first(x, w, b):
    return jnp.einsum("df,btd->btf", w, x) + b


@_layer("dense")
def to_heads(x, w, b):
    return (jnp.einsum("btd,dhk->bhtk", x, w.reshape(D, 3, 4)) + b.reshape(3, 1, 4)).transpose(0, 2, 1, 3)


@_layer("dense + gelu")
def gelu(x, w, b):
    return jax.nn.gelu(x @ w + b)


@_layer("dense + gelu")
def gelu_by_hand(x, w, b):
    h = x @ w + b
    return 0.5 * h * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (h + 0.044715 * h**3)))


@_layer("dense + relu2")
def squared_relu(x, w, b):
    return jnp.square(jax.nn.relu(x @ w + b))


@_layer("dense + swiglu")
def swiglu(x, w, b):
    x = jnp.tanh(x)
    return nn.silu(x @ w[:, :8] + b[:8]) * (x @ w[:, 4:])


@_layer("dense + swiglu")
def swiglu_by_hand(x, w, b):
    x = jnp.tanh(x)
    gate = jnp.einsum("btd,df->btf", x, w[:, :8])
    return (x @ w[:, 4:] + b[4:]) * (gate / (1 + jnp.exp(-gate)))


@_layer("dense + residual")
def residual(x, w, b):
    return jnp.concatenate([x, x[..., :4]], -1) + (x @ w + b)


def _loss(words: str = "projection + cross-entropy"):
    return lambda function: LOSSES.setdefault(function.__name__, (function, words)) and function


@_loss()
def optax_integers(x, w):
    return optax.softmax_cross_entropy_with_integer_labels(x @ w.T, TARGETS).mean()


@_loss()
def optax_weighted(x, w):
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.einsum("btd,vd->btv", x, w), TARGETS)
    return jnp.sum(losses * (TARGETS > 2)) / jnp.sum(TARGETS > 2)


@_loss()
def optax_one_hot(x, w):
    return optax.softmax_cross_entropy(x @ w.T, jax.nn.one_hot(TARGETS, V)).sum()


@_loss()
def taken(x, w):
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ w.T), TARGETS[..., None], axis=-1).mean()


@_loss()
def indexed(x, w):
    logs = jax.nn.log_softmax(x.reshape(B * T, D) @ w.T)
    return -logs[jnp.arange(B * T), TARGETS.reshape(-1)].mean()


@_loss()
def logits_taken(x, w):
    logits = x @ w.T
    chosen = jnp.take_along_axis(logits, TARGETS[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen).mean()


@_loss()
def one_hot(x, w):
    return -jnp.sum(jax.nn.one_hot(TARGETS, V) * jax.nn.log_softmax(x @ w.T)) / (B * T)


@_loss("projection + cross-entropy + soft cap")
def with_soft_cap(x, w):
    logits = 3.0 * jnp.tanh(jnp.einsum("btd,vd->btv", x, w) / 3.0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS).mean()


@_loss("projection + cross-entropy + z-loss")
def with_z_loss(x, w):
    logits = x @ w.T
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS)
    return jnp.mean(losses + 1e-2 * jax.nn.logsumexp(logits, axis=-1) ** 2)


@_loss("projection + cross-entropy + z-loss")
def with_z_loss_of_means(x, w):
    logits = x @ w.T
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), TARGETS[..., None], axis=-1).mean()
    return loss + 1e-2 * jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)))


@_loss("projection + cross-entropy + label smoothing")
def with_label_smoothing(x, w):
    logs = jax.nn.log_softmax(x @ w.T)
    chosen = jnp.take_along_axis(logs, TARGETS[..., None], axis=-1)[..., 0]
    return jnp.mean(-0.9 * chosen - 0.1 * logs.mean(axis=-1))


@_loss("projection + bias + cross-entropy")
def with_bias(x, w):
    logits = nn.Dense(V).apply({"params": {"kernel": w.T, "bias": w[:, 0]}}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS).mean()


@_loss("projection + bias + cross-entropy + soft cap + label smoothing + z-loss")
def with_everything(x, w):
    logits = 2.5 * jnp.tanh((x @ w.T + w[:, 1]) / 2.5)
    logs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logs, TARGETS[..., None], axis=-1)[..., 0]
    losses = -0.8 * chosen - 0.2 * logs.mean(axis=-1) + 1e-2 * jax.nn.logsumexp(logits, axis=-1) ** 2
    return jnp.sum(losses * (TARGETS != 5))


def _look_up(words: str):
    return lambda function: LOOK_UPS.setdefault(function.__name__, (function, words)) and function


@_look_up("embedding")
def look_up_linen(table, positions):
    return nn.Embed(V, D).apply({"params": {"embedding": table}}, TARGETS) + 0 * positions[0]


@_look_up("embedding")
def look_up_by_index(table, positions):
    return jnp.tanh(table[TARGETS]) + 0 * positions[0]


@_look_up("embedding")
def look_up_clipped(table, positions):
    return jnp.take(table, 2 * TARGETS, axis=0, mode="clip") + 0 * positions[0]


@_look_up("embedding + positions")
def look_up_with_positions(table, positions):
    return positions[None] + jnp.take(table, TARGETS, axis=0)


OPERANDS = {
    "NORMS": ((B, T, D), (D,), (D,)),
    "ATTENTIONS": ((B, T, H, K),) * 3,
    "LAYERS": ((B, T, D), (D, F), (F,)),
    "LOSSES": ((B, T, D), (V, D)),
    "LOOK_UPS": ((V, D), (T, D)),
}
"""Shapes of the operands of each kind."""

KINDS = {"NORMS": NORMS, "ATTENTIONS": ATTENTIONS, "LAYERS": LAYERS, "LOSSES": LOSSES, "LOOK_UPS": LOOK_UPS}
CASES = [(kind, name) for kind, functions in KINDS.items() for name in functions]
