"""Models of other libraries and in other people's style, each as a loss, parameters and batches: see `optimize_models`.

The functions import their library when they are called, which raises ImportError where it is missing. Batches can be
learnt: sequences count up in steps of their own, images have a pattern for each class.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a model and of its batches."""

    vocabulary: int = 512
    length: int = 32
    width: int = 64
    heads: int = 4
    layers: int = 2
    batch: int = 2

    def tokens(self, step: int) -> tuple[np.ndarray, ...]:
        """Sequences [batch, length + 1], each of which counts up from a random start in steps of 1 to 8.

        They use an eighth of the vocabulary, which is soon learnt.
        """
        rng = np.random.default_rng(step)
        starts, strides = rng.integers(0, self.vocabulary, (self.batch, 1)), rng.integers(1, 9, (self.batch, 1))
        counted = starts + strides * np.arange(self.length + 1)
        return ((counted % (self.vocabulary // 8)).astype(np.int32),)

    def images(self, step: int, *, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Noisy patterns [4 batch, *shape], and the class of each."""
        rng = np.random.default_rng(step)
        labels = rng.integers(0, CLASSES, 4 * self.batch)
        patterns = np.random.default_rng(1).normal(size=(CLASSES, *shape))
        noisy = patterns[labels] + rng.normal(size=(4 * self.batch, *shape))
        return noisy.astype(np.float32), labels.astype(np.int32)


class Model(NamedTuple):
    """A loss of parameters and the arrays of a batch, its parameters, and the batch of each step."""

    loss: Callable[..., jax.Array]
    params: Any
    batches: Callable[[int], tuple[Any, ...]]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Parameters, and the arrays of the first batch."""
        return self.params, *self.batches(0)


MODELS: dict[str, Callable[[Sizes], Model]] = {}


def _model(name: str):
    return lambda function: MODELS.setdefault(name, function)


def _next_token(logits, tokens):
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def _of_hugging_face(model, sizes: Sizes) -> Model:
    def loss(params, tokens):
        logits = model(tokens, params=params, train=False).logits
        return _next_token(logits[:, :-1], tokens)

    return Model(loss, model.params, sizes.tokens)


@_model("transformers: Flax GPT-2")
def gpt2(sizes: Sizes) -> Model:
    from transformers import FlaxGPT2LMHeadModel, GPT2Config

    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=sizes.vocabulary,
        n_positions=sizes.length + 1,
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        **none,
    )
    return _of_hugging_face(FlaxGPT2LMHeadModel(config, input_shape=(1, sizes.length)), sizes)


@_model("transformers: Flax Llama")
def llama(sizes: Sizes) -> Model:
    from transformers import FlaxLlamaForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=2 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads // 2,
        max_position_embeddings=2 * sizes.length,
    )
    return _of_hugging_face(FlaxLlamaForCausalLM(config, input_shape=(1, sizes.length)), sizes)


def _of_encoder(sizes: Sizes) -> dict[str, int]:
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": 2 * sizes.width,
    }


@_model("transformers: Flax BERT, padding")
def bert(sizes: Sizes) -> Model:
    from transformers import BertConfig, FlaxBertForMaskedLM

    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=sizes.vocabulary, **_of_encoder(sizes), **dropouts)
    model = FlaxBertForMaskedLM(config, input_shape=(1, sizes.length))
    mask = jnp.ones((sizes.batch, sizes.length), jnp.int32).at[1, sizes.length * 2 // 3 :].set(0)

    def loss(params, tokens, mask):
        logits = model(tokens, attention_mask=mask, params=params, train=False).logits
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, tokens) * mask) / jnp.sum(mask)

    return Model(loss, model.params, lambda step: (sizes.tokens(step)[0][:, :-1], mask))


@_model("transformers: Flax ViT")
def vit(sizes: Sizes) -> Model:
    from transformers import FlaxViTForImageClassification, ViTConfig

    config = ViTConfig(image_size=32, patch_size=8, num_labels=CLASSES, **_of_encoder(sizes))
    model = FlaxViTForImageClassification(config, input_shape=(1, 32, 32, 3))

    def loss(params, images, labels):
        logits = model(images, params=params, train=False).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Model(loss, model.params, functools.partial(sizes.images, shape=(3, 32, 32)))


class _LinenBlock(nn.Module):
    sizes: Sizes

    @nn.compact
    def __call__(self, x, _=None):
        width, h = self.sizes.width, nn.LayerNorm()(x)
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.sizes.heads)(h, h, mask=mask)
        return x + nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))), None


class _Linen(nn.Module):
    sizes: Sizes
    is_scanned: bool

    @nn.compact
    def __call__(self, tokens):
        sizes = self.sizes
        embed = nn.Embed(sizes.vocabulary, sizes.width)
        x = embed(tokens)
        if self.is_scanned:
            scanned: Any = nn.scan(
                _LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=sizes.layers
            )
            x, _ = scanned(sizes)(x, None)
        else:
            for _ in range(sizes.layers):
                x, _ = _LinenBlock(sizes)(x)
        return embed.attend(nn.LayerNorm()(x))


@_model("Flax Linen")
def linen(sizes: Sizes, *, is_scanned: bool = False) -> Model:
    model = _Linen(sizes, is_scanned)
    params = model.init(jax.random.key(0), sizes.tokens(0)[0][:, :-1])
    return Model(lambda params, tokens: _next_token(model.apply(params, tokens[:, :-1]), tokens), params, sizes.tokens)


class _NnxBlock(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        width = sizes.width
        self.first, self.second = nnx.LayerNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(sizes.heads, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.first(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.second(x))))


class _Nnx(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        self.embed = nnx.Embed(sizes.vocabulary, sizes.width, rngs=rngs)
        self.norm = nnx.LayerNorm(sizes.width, rngs=rngs)
        self.blocks = nnx.List([_NnxBlock(sizes, rngs) for _ in range(sizes.layers)])

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


@_model("Flax NNX")
def nnx_model(sizes: Sizes) -> Model:
    graph, state = nnx.split(_Nnx(sizes, nnx.Rngs(0)))

    def loss(state, tokens):
        return _next_token(nnx.merge(graph, state)(tokens[:, :-1]), tokens)

    return Model(loss, state, sizes.tokens)


@_model("Equinox")
def equinox(sizes: Sizes) -> Model:
    import equinox as eqx

    width = sizes.width
    keys = iter(jax.random.split(jax.random.key(0), 2 * sizes.layers + 2))
    blocks = [
        {
            "first": eqx.nn.LayerNorm(width),
            "second": eqx.nn.LayerNorm(width),
            "attention": eqx.nn.MultiheadAttention(sizes.heads, width, key=next(keys)),
            "mlp": eqx.nn.MLP(width, width, 4 * width, 1, activation=jax.nn.gelu, key=next(keys)),
        }
        for _ in range(sizes.layers)
    ]
    model = {
        "embed": eqx.nn.Embedding(sizes.vocabulary, width, key=next(keys)),
        "blocks": blocks,
        "norm": eqx.nn.LayerNorm(width),
        "head": eqx.nn.Linear(width, sizes.vocabulary, use_bias=False, key=next(keys)),
    }

    def apply(model, tokens):
        x = jax.vmap(model["embed"])(tokens)
        mask = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        for block in model["blocks"]:
            h = jax.vmap(block["first"])(x)
            x = x + block["attention"](h, h, h, mask=mask)
            x = x + jax.vmap(block["mlp"])(jax.vmap(block["second"])(x))
        return jax.vmap(model["head"])(jax.vmap(model["norm"])(x))

    def loss(model, tokens):
        return _next_token(jax.vmap(functools.partial(apply, model))(tokens[:, :-1]), tokens)

    arrays, rest = eqx.partition(model, eqx.is_array)
    return Model(lambda arrays, tokens: loss(eqx.combine(arrays, rest), tokens), arrays, sizes.tokens)


@_model("Haiku")
def haiku(sizes: Sizes) -> Model:
    import haiku as hk

    width = sizes.width

    def apply(tokens):
        table = hk.get_parameter("embed", (sizes.vocabulary, width), init=hk.initializers.TruncatedNormal(0.02))
        x, mask = table[tokens], jnp.tril(jnp.ones((1, 1, sizes.length, sizes.length)))
        for _ in range(sizes.layers):
            h = hk.LayerNorm(-1, True, True)(x)
            init = hk.initializers.VarianceScaling()
            x = x + hk.MultiHeadAttention(sizes.heads, sizes.width // sizes.heads, model_size=width, w_init=init)(
                h, h, h, mask=mask
            )
            x = x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(hk.LayerNorm(-1, True, True)(x))))
        return hk.LayerNorm(-1, True, True)(x) @ table.T

    model = hk.without_apply_rng(hk.transform(apply))
    params = model.init(jax.random.key(0), sizes.tokens(0)[0][:, :-1])
    return Model(lambda params, tokens: _next_token(model.apply(params, tokens[:, :-1]), tokens), params, sizes.tokens)


def _normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape) / math.sqrt(shape[-2])


@_model("einsum style: scan, remat, grouped queries, swiglu")
def einsums(sizes: Sizes) -> Model:
    D, L, T, H = sizes.width, sizes.layers, sizes.length, sizes.heads
    groups, width = H // 2, D // H
    layers = {
        "first": _normal(L, 1, D)[:, 0],
        "second": _normal(L, 1, D)[:, 0],
        "q": _normal(L, D, D).reshape(L, D, H, width),
        "kv": _normal(L, D, 2 * groups * width).reshape(L, D, 2, groups, width),
        "out": _normal(L, D, D).reshape(L, H, width, D),
        "gate": _normal(L, D, 2 * D),
        "up": _normal(L, D, 2 * D),
        "down": _normal(L, 2 * D, D),
    }
    params = {"embed": _normal(sizes.vocabulary, D), "layers": layers, "head": _normal(D, sizes.vocabulary)}

    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * (1 + scale)

    @jax.checkpoint
    def layer(x, weights):
        h = norm(x, weights["first"])
        q = jnp.einsum("btd,dhk->bthk", h, weights["q"]).reshape(-1, T, groups, H // groups, width)
        k, v = (jnp.einsum("btd,dgk->btgk", h, weights["kv"][:, i]) for i in range(2))
        scores = jnp.einsum("btghk,bsgk->bghts", q, k) / math.sqrt(width)
        scores = jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -1e30)
        heads = jnp.einsum("bghts,bsgk->btghk", jax.nn.softmax(scores), v).reshape(-1, T, H, width)
        x = x + jnp.einsum("bthk,hkd->btd", heads, weights["out"])
        h = norm(x, weights["second"])
        return x + (jax.nn.silu(h @ weights["gate"]) * (h @ weights["up"])) @ weights["down"], None

    def loss(params, tokens):
        x, _ = jax.lax.scan(layer, params["embed"][tokens[:, :-1]], params["layers"])
        logs = jax.nn.log_softmax(x @ params["head"])
        return -jnp.mean(jnp.take_along_axis(logs, tokens[:, 1:, None], -1))

    return Model(loss, params, sizes.tokens)


@_model("MLP classifier")
def classifier(sizes: Sizes) -> Model:
    widths = [64, 4 * sizes.width, 4 * sizes.width, CLASSES]
    params = [(_normal(*pair), jnp.zeros(pair[1])) for pair in itertools.pairwise(widths)]

    def loss(params, x, y):
        for w, b in params[:-1]:
            x = jax.nn.gelu(x @ w + b)
        w, b = params[-1]
        return -jnp.mean(jnp.sum(jax.nn.one_hot(y, CLASSES) * jax.nn.log_softmax(x @ w + b), -1))

    many = dataclasses.replace(sizes, batch=32 * sizes.batch)
    return Model(loss, params, functools.partial(many.images, shape=(64,)))


@_model("CNN")
def cnn(sizes: Sizes) -> Model:
    params = {"conv": _normal(3, 3, 3, 16), "w": _normal(16 * 8 * 8, CLASSES), "b": jnp.zeros(CLASSES)}

    def loss(params, images, labels):
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(images, params["conv"], (4, 4), "SAME", dimension_numbers=dimensions)
        )
        logits = x.reshape(len(images), -1) @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Model(loss, params, functools.partial(sizes.images, shape=(32, 32, 3)))
