"""Models of other libraries and in other people's style, each as a loss and its arguments: see `optimize_models`.

The functions import their library when they are called, which raises ImportError where it is missing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

VOCABULARY, LENGTH, WIDTH, HEADS, BATCH = 512, 32, 64, 4, 2
KEY = jax.random.key(0)
TOKENS = jax.random.randint(KEY, (BATCH, LENGTH + 1), 0, VOCABULARY)

Model = tuple[Callable[..., jax.Array], tuple[Any, ...]]
MODELS: dict[str, Callable[[], Model]] = {}


def _model(name: str):
    return lambda function: MODELS.setdefault(name, function)


def _next_token(logits, tokens=TOKENS):
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def _of_hugging_face(model) -> Model:
    def loss(params, tokens):
        logits = model(tokens, params=params, train=False).logits
        return _next_token(logits[:, :-1], tokens)

    return loss, (model.params, TOKENS)


@_model("transformers: Flax GPT-2")
def gpt2() -> Model:
    from transformers import FlaxGPT2LMHeadModel, GPT2Config

    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=HEADS, **none)
    return _of_hugging_face(FlaxGPT2LMHeadModel(config, input_shape=(1, LENGTH)))


@_model("transformers: Flax Llama")
def llama() -> Model:
    from transformers import FlaxLlamaForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return _of_hugging_face(FlaxLlamaForCausalLM(config, input_shape=(1, LENGTH)))


@_model("transformers: Flax BERT, padding")
def bert() -> Model:
    from transformers import BertConfig, FlaxBertForMaskedLM

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 128}
    model = FlaxBertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **sizes), input_shape=(1, LENGTH))
    tokens, mask = TOKENS[:, :-1], jnp.ones((BATCH, LENGTH), jnp.int32).at[1, 20:].set(0)

    def loss(params, tokens, mask):
        logits = model(tokens, attention_mask=mask, params=params, train=False).logits
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, tokens) * mask) / jnp.sum(mask)

    return loss, (model.params, tokens, mask)


@_model("transformers: Flax ViT")
def vit() -> Model:
    from transformers import FlaxViTForImageClassification, ViTConfig

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 128}
    config = ViTConfig(image_size=32, patch_size=8, num_labels=10, **sizes)
    model = FlaxViTForImageClassification(config, input_shape=(1, 32, 32, 3))

    def loss(params, images, labels):
        logits = model(images, params=params, train=False).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss, (model.params, jax.random.normal(KEY, (4, 3, 32, 32)), jnp.arange(4))


class _LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS)(h, h, mask=nn.make_causal_mask(x[..., 0]))
        return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, WIDTH)
        x = embed(tokens)
        for _ in range(2):
            x = _LinenBlock()(x)
        return embed.attend(nn.LayerNorm()(x))


@_model("Flax Linen")
def linen() -> Model:
    model = _Linen()
    params = model.init(KEY, TOKENS[:, :-1])
    return lambda params, tokens: _next_token(model.apply(params, tokens[:, :-1]), tokens), (params, TOKENS)


class _NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first, self.second = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.first(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.second(x))))


class _Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed, self.norm = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.blocks = nnx.List([_NnxBlock(rngs) for _ in range(2)])

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


@_model("Flax NNX")
def nnx_model() -> Model:
    graph, state = nnx.split(_Nnx(nnx.Rngs(0)))
    return lambda state, tokens: _next_token(nnx.merge(graph, state)(tokens[:, :-1]), tokens), (state, TOKENS)


@_model("Equinox")
def equinox() -> Model:
    import equinox as eqx

    keys = iter(jax.random.split(KEY, 16))
    blocks = [
        {
            "first": eqx.nn.LayerNorm(WIDTH),
            "second": eqx.nn.LayerNorm(WIDTH),
            "attention": eqx.nn.MultiheadAttention(HEADS, WIDTH, key=next(keys)),
            "mlp": eqx.nn.MLP(WIDTH, WIDTH, 4 * WIDTH, 1, activation=jax.nn.gelu, key=next(keys)),
        }
        for _ in range(2)
    ]
    model = {
        "embed": eqx.nn.Embedding(VOCABULARY, WIDTH, key=next(keys)),
        "blocks": blocks,
        "norm": eqx.nn.LayerNorm(WIDTH),
        "head": eqx.nn.Linear(WIDTH, VOCABULARY, use_bias=False, key=next(keys)),
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

    return loss, (model, TOKENS)


@_model("Haiku")
def haiku() -> Model:
    import haiku as hk

    def apply(tokens):
        table = hk.get_parameter("embed", (VOCABULARY, WIDTH), init=hk.initializers.TruncatedNormal(0.02))
        x, mask = table[tokens], jnp.tril(jnp.ones((1, 1, LENGTH, LENGTH)))
        for _ in range(2):
            h = hk.LayerNorm(-1, True, True)(x)
            init = hk.initializers.VarianceScaling()
            x = x + hk.MultiHeadAttention(HEADS, WIDTH // HEADS, model_size=WIDTH, w_init=init)(h, h, h, mask=mask)
            x = x + hk.Linear(WIDTH)(jax.nn.gelu(hk.Linear(4 * WIDTH)(hk.LayerNorm(-1, True, True)(x))))
        return hk.LayerNorm(-1, True, True)(x) @ table.T

    model = hk.without_apply_rng(hk.transform(apply))
    params = model.init(KEY, TOKENS[:, :-1])
    return lambda params, tokens: _next_token(model.apply(params, tokens[:, :-1]), tokens), (params, TOKENS)


def _normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape) / math.sqrt(shape[-2])


@_model("einsum style: scan, remat, grouped queries, swiglu")
def einsums() -> Model:
    groups, width = 2, WIDTH // HEADS
    layers = {
        "first": _normal(2, 1, WIDTH)[:, 0],
        "second": _normal(2, 1, WIDTH)[:, 0],
        "q": _normal(2, WIDTH, WIDTH).reshape(2, WIDTH, HEADS, width),
        "kv": _normal(2, WIDTH, 2 * groups * width).reshape(2, WIDTH, 2, groups, width),
        "out": _normal(2, WIDTH, WIDTH).reshape(2, HEADS, width, WIDTH),
        "gate": _normal(2, WIDTH, 128),
        "up": _normal(2, WIDTH, 128),
        "down": _normal(2, 128, WIDTH),
    }
    params = {"embed": _normal(VOCABULARY, WIDTH), "layers": layers, "head": _normal(WIDTH, VOCABULARY)}

    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * (1 + scale)

    @jax.checkpoint
    def layer(x, weights):
        h = norm(x, weights["first"])
        q = jnp.einsum("btd,dhk->bthk", h, weights["q"]).reshape(BATCH, LENGTH, groups, HEADS // groups, width)
        k, v = (jnp.einsum("btd,dgk->btgk", h, weights["kv"][:, i]) for i in range(2))
        scores = jnp.einsum("btghk,bsgk->bghts", q, k) / math.sqrt(width)
        scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -1e30)
        heads = jnp.einsum("bghts,bsgk->btghk", jax.nn.softmax(scores), v).reshape(BATCH, LENGTH, HEADS, width)
        x = x + jnp.einsum("bthk,hkd->btd", heads, weights["out"])
        h = norm(x, weights["second"])
        return x + (jax.nn.silu(h @ weights["gate"]) * (h @ weights["up"])) @ weights["down"], None

    def loss(params, tokens):
        x, _ = jax.lax.scan(layer, params["embed"][tokens[:, :-1]], params["layers"])
        logs = jax.nn.log_softmax(x @ params["head"])
        return -jnp.mean(jnp.take_along_axis(logs, tokens[:, 1:, None], -1))

    return loss, (params, TOKENS)


@_model("MLP classifier")
def classifier() -> Model:
    params = [
        (_normal(64, 128), jnp.zeros(128)),
        (_normal(128, 128), jnp.zeros(128)),
        (_normal(128, 10), jnp.zeros(10)),
    ]

    def loss(params, x, y):
        for w, b in params[:-1]:
            x = jax.nn.gelu(x @ w + b)
        w, b = params[-1]
        return -jnp.mean(jnp.sum(jax.nn.one_hot(y, 10) * jax.nn.log_softmax(x @ w + b), -1))

    return loss, (params, _normal(256, 64), jnp.arange(256) % 10)


@_model("CNN")
def cnn() -> Model:
    params = {"conv": _normal(3, 3, 3, 16), "w": _normal(16 * 8 * 8, 10), "b": jnp.zeros(10)}

    def loss(params, images, labels):
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(images, params["conv"], (4, 4), "SAME", dimension_numbers=dimensions)
        )
        logits = x.reshape(len(images), -1) @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss, (params, jax.random.normal(KEY, (8, 32, 32, 3)), jnp.arange(8))
