"""A model's weights in the form of the decoding kernel, see `ryot_jax.kernels.decoding.step`."""

import jax.numpy as jnp

from ryot_jax.kernels.decoding.step import LayerWeights, StepSpec, StepWeights
from ryot_jax.model.config import ModelConfig
from ryot_jax.model.functional import Params, unstack_layers
from ryot_jax.model.positions import angles, sinusoidal
from ryot_jax.model.transformer import layer_name


def step_weights(cfg: ModelConfig, params: Params) -> tuple[StepWeights, StepSpec]:
    """A model's weights in the decoding kernel's order, with the sizes and kinds that belong to them."""
    cfg, params = unstack_layers(cfg, params)
    table_VD, positions_T = params["embedding"], jnp.arange(cfg.max_len)
    positions_PD = params.get("positions")
    if cfg.positions == "sinusoidal":
        table_VD, positions_PD = table_VD * cfg.d_model**0.5, sinusoidal(positions_T, cfg.d_model)
    rotations_PK = None
    if cfg.positions == "rotary":
        angles_PK = angles(positions_T, cfg.head_dim // 2)
        rotations_PK = jnp.concatenate([jnp.cos(angles_PK), jnp.sin(angles_PK)], axis=1)
    head_VD = params.get("head")
    weights = StepWeights(
        table_VD=table_VD,
        positions_PD=positions_PD,
        rotations_PK=rotations_PK,
        final_scale_D=params["final_norm"]["scale"],
        final_bias_D=params["final_norm"].get("bias"),
        head_VD=params["embedding"] if head_VD is None else head_VD,
        layers=tuple(_layer(params["blocks"][layer_name(i)]) for i in range(cfg.n_layers)),
    )
    return weights, StepSpec(cfg.n_heads, cfg.d_ff, cfg.mlp, centre=cfg.norm == "layer")


def _layer(block: Params) -> LayerWeights:
    attention, mlp = block["attention"], block["mlp"]
    return LayerWeights(
        *_scaled(block["attention_norm"]),
        *_affine(attention["qkv"]),
        *_affine(attention["out"]),
        *_scaled(block["mlp_norm"]),
        *_affine(mlp["up"]),
        *_affine(mlp["down"]),
    )


def _scaled(norm: Params) -> tuple:
    return norm["scale"], norm.get("bias")


def _affine(projection: Params) -> tuple:
    return projection["kernel"], projection.get("bias")
