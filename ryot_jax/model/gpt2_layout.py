"""Conversion to and from Hugging Face's `GPT2LMHeadModel`: names of parameters, and values of its config.json.

No array is transposed: GPT-2's Conv1D keeps weights as [in, out], as our kernels are, and puts queries, keys and values
side by side in one matrix, as `qkv` does. So a layout is a table of names. Files are left to `ryot_jax.commands`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig
from ryot_jax.model.transformer import layer_name
from ryot_jax.runtime.errors import CheckpointError, ConfigError

# Values of fields that GPT-2 can express. A layer norm implies the biases.
_EXPRESSIBLE = {"positions": "learned", "norm": "layer", "mlp": "gelu"}

_MODULES = {
    ("attention_norm",): "ln_1",
    ("attention", "qkv"): "attn.c_attn",
    ("attention", "out"): "attn.c_proj",
    ("mlp_norm",): "ln_2",
    ("mlp", "up"): "mlp.c_fc",
    ("mlp", "down"): "mlp.c_proj",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_PREFIX = "transformer."  # of all names but the head's; the checkpoints of OpenAI's models are without it
_EMBEDDING, _HEAD = f"{_PREFIX}wte.weight", "lm_head.weight"
_MASK = re.compile(rf"({re.escape(_PREFIX)})?h\.\d+\.attn\.(masked_)?bias")  # buffers, no parameters

# Of our `model` section: GPT2Config's name, and its default, which a config.json may leave out.
_SIZES = {
    "vocab_size": ("vocab_size", 50_257),
    "max_len": ("n_positions", 1024),
    "d_model": ("n_embd", 768),
    "n_layers": ("n_layer", 12),
    "n_heads": ("n_head", 12),
}
# What else decides GPT-2's numbers: the values with which they are ours, the default in front.
_COMPUTED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of the tanh form
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
_DTYPES = ("float32", "bfloat16", "float16")
_NAMED_AT_MOST = 5


def check(cfg: ModelConfig) -> None:
    """Refuses a model that GPT-2 cannot express.

    Raises:
      ConfigError: the message names each field that GPT-2 does not have.
    """
    others = [
        f"model.{field} = {getattr(cfg, field)!r}: GPT-2 has {wanted!r} alone; train a model with it to export it"
        for field, wanted in _EXPRESSIBLE.items()
        if getattr(cfg, field) != wanted
    ]
    if others:
        raise ConfigError("\n".join(others))


def to_gpt2(cfg: ModelConfig, params: functional.Params) -> dict[str, np.ndarray]:
    """The parameters by GPT-2's names, in its shapes, float32 and contiguous; without the head where it is tied.

    Raises:
      ConfigError: GPT-2 cannot express the model.
    """
    check(cfg)
    _, params = functional.unstack_layers(cfg, params)
    return {_name(path): np.ascontiguousarray(leaf) for path, leaf in flatten_dict(params).items()}


def from_gpt2(cfg: ModelConfig, tensors: Mapping[str, np.ndarray]) -> functional.Params:
    """The inverse of `to_gpt2`: our parameters, float32, stacked with `scan_layers`.

    Args:
      cfg: a model that GPT-2 can express.
      tensors: float32, bfloat16 or float16 arrays by GPT-2's names, with 'transformer.' in front or without. Masks
        ('attn.bias', 'attn.masked_bias') are no parameters and are left out, and so is the copy of a tied embedding.

    Raises:
      ConfigError: GPT-2 cannot express the model.
      CheckpointError: an array is missing, of another shape or dtype, or belongs to no part of the model.
    """
    check(cfg)
    layered = dataclasses.replace(cfg, scan_layers=False)
    shapes = flatten_dict(jax.eval_shape(lambda: functional.init(layered, 0)[1]))
    wanted = {_name(path): path for path in shapes}
    found = _by_full_name(tensors, wanted)
    if cfg.tie_embeddings:
        found = _without_tied_head(found)
    problems = _problems({name: shapes[path].shape for name, path in wanted.items()}, found)
    if problems:
        raise CheckpointError(f"no GPT-2 of the shape that its config says: {'; '.join(problems)}")
    leaves = {path: jnp.asarray(np.asarray(found[name], np.float32)) for name, path in wanted.items()}
    params: functional.Params = unflatten_dict(leaves)
    return functional.stack_layers(layered, params)[1] if cfg.scan_layers else params


def gpt2_config(cfg: ModelConfig, end_of_document: int | None) -> dict[str, Any]:
    """The values of config.json for `transformers`.

    Args:
      cfg: the model.
      end_of_document: the id that ends a document, and stands before the first; None: not known.

    Raises:
      ConfigError: GPT-2 cannot express the model.
    """
    check(cfg)
    return {
        "architectures": ["GPT2LMHeadModel"],
        **{field: allowed[0] for field, allowed in _COMPUTED.items()},
        **{theirs: getattr(cfg, ours) for ours, (theirs, _) in _SIZES.items()},
        "n_ctx": cfg.max_len,  # as `n_positions`; the converter of llama.cpp reads it
        "n_inner": cfg.d_ff,
        "tie_word_embeddings": cfg.tie_embeddings,
        # Our dropout acts on the embeddings and on both branches, not on the attention's weights.
        "embd_pdrop": cfg.dropout,
        "resid_pdrop": cfg.dropout,
        "attn_pdrop": 0.0,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "torch_dtype": "float32",
    }


def model_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our `model` section that GPT-2's config.json decides; how to compute is not among them.

    What the file leaves out has GPT2Config's default. Whether the values make a model is left to `ModelConfig`.

    Raises:
      CheckpointError: a value is of the wrong type, or the model computes what ours does not.
    """
    for field, allowed in _COMPUTED.items():
        value = values.get(field, allowed[0])
        if value not in allowed:
            choices = " or ".join(repr(choice) for choice in allowed)
            raise CheckpointError(f"config.json: {field} = {value!r}: only models with {choices} can be imported")
    sizes = {ours: _typed(values, theirs, default, int) for ours, (theirs, default) in _SIZES.items()}
    inner = values.get("n_inner")
    return {
        **_EXPRESSIBLE,
        **sizes,
        "d_ff": 4 * sizes["d_model"] if inner is None else _typed(values, "n_inner", inner, int),
        "tie_embeddings": _typed(values, "tie_word_embeddings", True, bool),
        "dropout": float(_typed(values, "resid_pdrop", 0.1, float)),
    }


def _typed(values: Mapping[str, Any], field: str, default: Any, kind: type) -> Any:
    value = values.get(field, default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise CheckpointError(
            f"config.json: {field} = {value!r} is of type {type(value).__name__}, not {kind.__name__}"
        )
    return value


def _name(path: tuple[str, ...]) -> str:
    """GPT-2's name of a parameter, of its path in our pytree without a stack of layers."""
    match path:
        case ("embedding",):
            return _EMBEDDING
        case ("positions",):
            return f"{_PREFIX}wpe.weight"
        case ("head",):
            return _HEAD
        case ("final_norm", leaf):
            return f"{_PREFIX}ln_f.{_LEAVES[leaf]}"
        case ("blocks", layer, *module, leaf):
            index = int(layer.rpartition("_")[2])
            assert layer == layer_name(index)
            return f"{_PREFIX}h.{index}.{_MODULES[tuple(module)]}.{_LEAVES[leaf]}"
    raise AssertionError(f"no part of GPT-2: {path}")


def _by_full_name(tensors: Mapping[str, np.ndarray], wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Without masks, and with 'transformer.' in front where that makes a name that is wanted."""
    known = set(wanted)
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if _MASK.fullmatch(name):
            continue
        full = _PREFIX + name if _PREFIX + name in known else name
        if full in found:
            raise CheckpointError(f"{full} is there twice, with {_PREFIX!r} in front and without; remove one of them")
        found[full] = tensor
    return found


def _without_tied_head(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Some files hold a tied head as a copy of the embedding; one that is no copy is another model."""
    rest = {name: tensor for name, tensor in found.items() if name != _HEAD}
    if _HEAD in found and not np.array_equal(found[_HEAD], rest.get(_EMBEDDING, np.empty(0))):
        raise CheckpointError(
            f"{_HEAD} is not {_EMBEDDING}, although config.json ties them; set tie_word_embeddings = false there"
        )
    return rest


def _problems(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray]) -> list[str]:
    both = [name for name in wanted if name in found]
    shapes = [
        f"{name} of shape {list(found[name].shape)}, not {list(wanted[name])}"
        for name in both
        if found[name].shape != wanted[name]
    ]
    dtypes = [f"{name} of {found[name].dtype}" for name in both if found[name].dtype.name not in _DTYPES]
    parts = {
        "missing": [name for name in wanted if name not in found],
        "superfluous": [name for name in found if name not in wanted],
        "of wrong shape": shapes,
        f"not {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}": dtypes,
    }
    return [f"{what}: {_listed(names)}" for what, names in parts.items() if names]


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
