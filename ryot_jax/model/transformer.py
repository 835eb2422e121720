"""The Flax NNX module: a decoder-only, pre-norm transformer.

It is a description of the network and its weights; programs split it once and call it through
`functional.py`.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ryot_jax.kernels import dropout, embedding
from ryot_jax.model.attention import SelfAttention
from ryot_jax.model.cache import Cache, LayerCache
from ryot_jax.model.config import ModelConfig
from ryot_jax.model.layers import Mlp, Norm, subkey
from ryot_jax.model.positions import sinusoidal
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runtime.errors import ConfigError

_EMBEDDING_DEVIATION = 0.02


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        # 2L branches add up in the residual stream: scaled so that its variance does not grow with depth (GPT-2).
        output_gain = (2 * cfg.n_layers) ** -0.5
        self.dropout = cfg.dropout
        self.attention_norm = Norm(cfg)
        self.attention = SelfAttention(cfg, output_gain=output_gain, rngs=rngs)
        self.mlp_norm = Norm(cfg)
        self.mlp = Mlp(cfg, output_gain=output_gain, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, *, plan: KernelPlan, key: jax.Array | None = None) -> jax.Array:
        """x_BTD -> x_BTD, the residual stream; dropout on both branches where a key is given."""
        if key is None or self.dropout == 0.0:  # the sums are taken within the last products
            x_BTD = self.attention.of_norm(x_BTD, self.attention_norm, plan=plan)
            return self.mlp.of_norm(x_BTD, self.mlp_norm, plan=plan)
        x_BTD = self._add_dropped(self.attention, self.attention_norm, x_BTD, plan, subkey(key, 0))
        return self._add_dropped(self.mlp, self.mlp_norm, x_BTD, plan, subkey(key, 1))

    def _add_dropped(
        self, branch: Any, norm: Norm, x_BTD: jax.Array, plan: KernelPlan, key: jax.Array | None
    ) -> jax.Array:
        h_BTD, x_BTD = norm.of(x_BTD, plan)(x_BTD)
        return x_BTD + dropout(branch(h_BTD, plan=plan), self.dropout, key, implementation=plan["dropout"])

    def decode(
        self, x_BSD: jax.Array, cache: LayerCache, length_B: jax.Array, *, plan: KernelPlan
    ) -> tuple[jax.Array, LayerCache]:
        """Decodes S positions that follow those of the cache."""
        h_BSD = self.attention_norm(x_BSD, plan=plan)
        x_BSD, cache = self.attention.decode(h_BSD, cache, length_B, plan=plan, residual=x_BSD)
        return self.mlp(self.mlp_norm(x_BSD, plan=plan), plan=plan, residual=x_BSD), cache


class Transformer(nnx.Module):
    """The model: token ids to features to logits.

    `blocks` is a dict 'layer_000', 'layer_001', .. of blocks, or, with `scan_layers`, one block whose weights carry
    L in front. The weights drawn from a seed are the same numbers in both layouts.
    """

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        self.embedding = nnx.Param(_normal(rngs, cfg.vocab_size, cfg.d_model))
        self.positions = nnx.Param(_normal(rngs, cfg.max_len, cfg.d_model)) if cfg.positions == "learned" else None
        blocks = [Block(cfg, rngs) for _ in range(cfg.n_layers)]
        if cfg.scan_layers:
            graphdef = nnx.graphdef(blocks[0])
            layers = [nnx.to_pure_dict(nnx.state(block)) for block in blocks]
            self.blocks = nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers))
        else:
            self.blocks = nnx.Dict({layer_name(i): block for i, block in enumerate(blocks)})
        self.final_norm = Norm(cfg)
        self.head = None if cfg.tie_embeddings else nnx.Param(_normal(rngs, cfg.vocab_size, cfg.d_model))

    def hidden(
        self, tokens_BT: jax.Array, *, plan: KernelPlan, key: jax.Array | None = None, depth: int = 0
    ) -> jax.Array:
        """Features x_BTD after the final norm, in the dtype between the ops; `key` None means no dropout.

        The stream goes through the first `depth` layers, 0: all. A token id beyond the vocabulary gives NaN. Raises
        ConfigError where T exceeds `max_len`, or depth the number of layers.
        """
        if not 0 <= depth <= self.cfg.n_layers:
            raise ConfigError(f"depth = {depth} must lie in 0 to model.n_layers = {self.cfg.n_layers}")
        T = tokens_BT.shape[1]
        if self.cfg.max_len < T:
            raise ConfigError(
                f"sequence of {T} tokens: model.max_len = {self.cfg.max_len}; shorten it or raise max_len"
            )
        positions_TD = None if self.positions is None else self.positions[...][:T]
        x_BTD = embedding(self.embedding[...], tokens_BT, positions_TD, implementation=plan["embedding"])
        x_BTD = self._at_positions(x_BTD, jnp.arange(T)[None])
        x_BTD = dropout(x_BTD, self.cfg.dropout, subkey(key, 0), implementation=plan["dropout"])
        run = self._run_scanned if self.cfg.scan_layers else self._run_unrolled
        return self.final_norm(run(x_BTD, plan, key, depth or self.cfg.n_layers), plan=plan)

    def unembedding(self) -> jax.Array:
        """Weights w_VD (float32) whose product with features gives logits; the embedding itself when tied."""
        return self.embedding[...] if self.head is None else self.head[...]

    def advance(self, tokens_BS: jax.Array, cache: Cache, *, plan: KernelPlan) -> tuple[jax.Array, Cache]:
        """Features x_BSD of S tokens that follow those of the cache, and the cache that holds them too.

        What would not fit into the cache, or lies beyond `max_len`, cannot be raised on from within a compiled loop:
        it gives NaN, never numbers of another position. The last tokens of a sequence that ends before the S given
        ones may be anything: set the cache's length back to what counts.
        """
        S = tokens_BS.shape[1]
        positions_BS = jnp.add.outer(cache.length_B, jnp.arange(S))
        x_BSD = embedding(self.embedding[...], tokens_BS, implementation=plan["embedding"])
        if self.positions is not None:
            x_BSD += self.positions[...][positions_BS]
        x_BSD = self._at_positions(x_BSD, positions_BS)
        layers = []
        for block, layer in zip(self._blocks(), cache.layers, strict=True):
            x_BSD, layer = block.decode(x_BSD, layer, cache.length_B, plan=plan)
            layers.append(layer)
        fits_BS = (cache.length_B + S <= cache.capacity)[:, None] & (positions_BS < self.cfg.max_len)
        x_BSD = jnp.where(fits_BS[:, :, None], self.final_norm(x_BSD, plan=plan), jnp.nan)
        return x_BSD, Cache(tuple(layers), cache.length_B + S)

    def decode(self, tokens_BS: jax.Array, cache: Cache, *, plan: KernelPlan) -> tuple[jax.Array, Cache]:
        """Logits_BSV (float32) of the tokens after each of S tokens: prefill with the prompt, step with S = 1."""
        x_BSD, cache = self.advance(tokens_BS, cache, plan=plan)
        return logits(x_BSD, self.unembedding()), cache

    def _at_positions(self, x_BSD: jax.Array, positions_BS: jax.Array) -> jax.Array:
        """Embeddings with what has no weights added, in the dtype of the model."""
        if self.cfg.positions == "sinusoidal":
            # The table's entries are of size one, embeddings of size 0.02: scaled up as in arXiv:1706.03762, 3.4.
            x_BSD = x_BSD * self.cfg.d_model**0.5 + sinusoidal(positions_BS, self.cfg.d_model)
        return x_BSD.astype(self.cfg.dtype)

    def _run_unrolled(self, x_BTD: jax.Array, plan: KernelPlan, key: jax.Array | None, depth: int) -> jax.Array:
        for i, block in enumerate(itertools.islice(self._blocks(), depth)):
            graphdef, params = nnx.split(block)

            def apply(params: Any, x_BTD: jax.Array, layer_key: Any, graphdef: Any = graphdef) -> jax.Array:
                return nnx.merge(graphdef, params)(x_BTD, plan=plan, key=layer_key)

            apply = jax.checkpoint(apply) if self.cfg.remat else apply
            x_BTD = apply(nnx.to_pure_dict(params), x_BTD, subkey(key, i + 1))
        return x_BTD

    def _run_scanned(self, x_BTD: jax.Array, plan: KernelPlan, key: jax.Array | None, depth: int) -> jax.Array:
        graphdef, params_L = nnx.split(self.blocks)
        first_layers = jax.tree.map(lambda leaf_L: leaf_L[:depth], nnx.to_pure_dict(params_L))

        def apply(x_BTD: jax.Array, layer: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
            params, i = layer
            return nnx.merge(graphdef, params)(x_BTD, plan=plan, key=subkey(key, i + 1)), None

        # A scan's body is a program of its own, which XLA cannot merge with the backward pass's copy of it.
        apply = jax.checkpoint(apply, prevent_cse=False) if self.cfg.remat else apply
        return jax.lax.scan(apply, x_BTD, (first_layers, jnp.arange(depth)))[0]

    def _blocks(self) -> Iterator[Block]:
        if not self.cfg.scan_layers:
            yield from self.blocks.values()
            return
        graphdef, params_L = nnx.split(self.blocks)
        for i in range(self.cfg.n_layers):
            yield nnx.merge(graphdef, jax.tree.map(lambda leaf_L, i=i: leaf_L[i], nnx.to_pure_dict(params_L)))


def layer_name(index: int) -> str:
    """Key of a layer in the dict of parameters; padded, so that sorted keys are in the order of the layers."""
    return f"layer_{index:03d}"


def logits(x_BSD: jax.Array, w_VD: jax.Array) -> jax.Array:
    """Product of features and unembedding, accumulated and returned in float32."""
    return jnp.einsum("bsd,vd->bsv", x_BSD, w_VD.astype(x_BSD.dtype), preferred_element_type=jnp.float32)


def _normal(rngs: nnx.Rngs, rows: int, columns: int) -> jax.Array:
    return _EMBEDDING_DEVIATION * jax.random.normal(rngs.params(), (rows, columns), jnp.float32)
