"""The model as pure functions of pytrees: what training, evaluation and decoding call.

The module is split once, by `init`, into a hashable graph and a plain nested dict of float32 arrays. The graph
is closed over (or a static argument) and merged with the arrays inside the traced function, which costs nothing
at run time.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from ryot_jax.kernels import linear_cross_entropy
from ryot_jax.model.cache import Cache
from ryot_jax.model.config import ModelConfig
from ryot_jax.model.transformer import Transformer, layer_name
from ryot_jax.optimizations import KernelPlan

GraphDef: TypeAlias = nnx.GraphDef[Transformer]
Params: TypeAlias = dict[str, Any]
Batch: TypeAlias = Mapping[str, jax.Array]


def graph(cfg: ModelConfig) -> GraphDef:
    """The module without its weights; costs no memory."""
    return nnx.graphdef(nnx.eval_shape(lambda: Transformer(cfg, nnx.Rngs(0))))


def init(cfg: ModelConfig, seed: int) -> tuple[GraphDef, Params]:
    """Graph and fresh float32 weights; the same seed gives the same numbers, scanned or not."""
    return graph(cfg), _init_params(cfg, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def _init_params(cfg: ModelConfig, key: jax.Array) -> Params:
    return nnx.to_pure_dict(nnx.state(Transformer(cfg, nnx.Rngs(params=key))))


def hidden(
    graphdef: GraphDef,
    params: Params,
    tokens_BT: jax.Array,
    *,
    plan: KernelPlan,
    key: jax.Array | None = None,
    depth: int = 0,
) -> jax.Array:
    """Features x_BTD after the final norm; see `Transformer.hidden`."""
    return nnx.merge(graphdef, params).hidden(tokens_BT, plan=plan, key=key, depth=depth)


def unembedding(graphdef: GraphDef, params: Params) -> jax.Array:
    """Weights w_VD (float32) from features to logits."""
    return nnx.merge(graphdef, params).unembedding()


def advance(
    graphdef: GraphDef, params: Params, tokens_BS: jax.Array, cache: Cache, *, plan: KernelPlan
) -> tuple[jax.Array, Cache]:
    """Features x_BSD of S more tokens, and the longer cache; see `Transformer.advance`."""
    return nnx.merge(graphdef, params).advance(tokens_BS, cache, plan=plan)


def decode(
    graphdef: GraphDef, params: Params, tokens_BS: jax.Array, cache: Cache, *, plan: KernelPlan
) -> tuple[jax.Array, Cache]:
    """Logits_BSV (float32) of S more tokens, and the longer cache; see `Transformer.decode`."""
    return nnx.merge(graphdef, params).decode(tokens_BS, cache, plan=plan)


def loss(
    graphdef: GraphDef,
    params: Params,
    batch: Batch,
    *,
    plan: KernelPlan,
    key: jax.Array | None = None,
    depth: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Sum of the cross-entropies in nats over all targets (float32[]), and the number of targets (float32[]).

    `batch` holds int32 'inputs' and 'targets' of shape [B, T]; targets below zero count for nothing. `depth`: of the
    first layers only, 0: all.
    """
    x_BTD = hidden(graphdef, params, batch["inputs"], plan=plan, key=key, depth=depth)
    return linear_cross_entropy(
        x_BTD.reshape(-1, x_BTD.shape[-1]),
        unembedding(graphdef, params),
        batch["targets"].reshape(-1),
        implementation=plan["linear_cross_entropy"],
    )


def sequence_losses(graphdef: GraphDef, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Per sequence: sum of cross-entropies in nats (float32[B]) and number of targets (float32[B]).

    For evaluation: reference kernels always, so that the arms of a comparison are measured by one instrument.
    """
    x_BTD = hidden(graphdef, params, batch["inputs"], plan=KernelPlan())
    per_sequence = functools.partial(linear_cross_entropy, w_VD=unembedding(graphdef, params))
    return jax.vmap(lambda x_TD, targets_T: per_sequence(x_TD, targets_N=targets_T))(x_BTD, batch["targets"])


def unstack_layers(cfg: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Converts parameters stacked over layers to one entry per layer (the form with `scan_layers` off)."""
    if not cfg.scan_layers:
        return cfg, params
    blocks = {layer_name(i): jax.tree.map(lambda leaf_L, i=i: leaf_L[i], params["blocks"]) for i in range(cfg.n_layers)}
    return dataclasses.replace(cfg, scan_layers=False), {**params, "blocks": blocks}


def stack_layers(cfg: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Stacks the layers' parameters for a scan over layers: the inverse of `unstack_layers`."""
    if cfg.scan_layers:
        return cfg, params
    layers = [params["blocks"][layer_name(i)] for i in range(cfg.n_layers)]
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return dataclasses.replace(cfg, scan_layers=True), {**params, "blocks": blocks}
