"""Names, shapes and numbers are those of Hugging Face's GPT-2, written down here once more and computed in float64."""

import math
import re

import jax
import ml_dtypes
import numpy as np
import pytest

from ryot_jax.kernels import NormSpec
from ryot_jax.model import functional, gpt2_layout
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runtime.errors import CheckpointError, ConfigError

LAYOUTS = [
    pytest.param({"tie_embeddings": tied, "scan_layers": scan}, id=f"{'tied' if tied else 'untied'}-{name}")
    for tied in (True, False)
    for scan, name in ((False, "layers"), (True, "stacked"))
]

# float32 has a relative rounding of 6e-8; some 100 operations deep, on sums of up to 31 terms that partly cancel, to
# logits of up to 5.
TOLERANCE = 2e-5


def reference_logits(tensors, config, tokens_BT):
    """Logits [B, T, V] by the description of GPT-2 (Radford et al. 2019) and the names of `transformers`."""
    weights = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
    head = weights["transformer.wte.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return np.stack([_hidden(weights, config, tokens_T) @ head.T for tokens_T in tokens_BT])


def _hidden(weights, config, tokens_T):
    def conv1d(x, name):
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x, name):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        unit = (x - mean) / np.sqrt(variance + config["layer_norm_epsilon"])
        return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    T, n_embd, width = len(tokens_T), config["n_embd"], config["n_embd"] // config["n_head"]
    x = weights["transformer.wte.weight"][tokens_T] + weights["transformer.wpe.weight"][:T]
    for i in range(config["n_layer"]):
        block = f"transformer.h.{i}"
        qkv = conv1d(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        query, key, value = qkv[:, :n_embd], qkv[:, n_embd : 2 * n_embd], qkv[:, 2 * n_embd :]
        heads = []
        for start in range(0, n_embd, width):
            part = slice(start, start + width)
            scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(width)) * np.tri(T)
            heads.append(scores / scores.sum(-1, keepdims=True) @ value[:, part])
        x = x + conv1d(np.concatenate(heads, axis=-1), f"{block}.attn.c_proj")
        hidden = conv1d(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))  # gelu_new
        x = x + conv1d(hidden, f"{block}.mlp.c_proj")
    return norm(x, "transformer.ln_f")


def our_logits(graphdef, params, tokens_BT):
    def logits(params, tokens_BT):
        x_BTD = functional.hidden(graphdef, params, tokens_BT, plan=KernelPlan())
        return x_BTD @ functional.unembedding(graphdef, params).T

    return np.asarray(jax.jit(logits)(params, tokens_BT), np.float64)


def exported(small, **overrides):
    cfg = small.config(**overrides)
    graphdef, params = small.build(cfg)
    return cfg, graphdef, params, gpt2_layout.to_gpt2(cfg, params)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_gpt2(small, layout):
    cfg, graphdef, params, tensors = exported(small, **layout)
    tokens_BT = small.batch(cfg)["inputs"]
    theirs = reference_logits(tensors, gpt2_layout.gpt2_config(cfg, 0), tokens_BT)
    np.testing.assert_allclose(our_logits(graphdef, params, tokens_BT), theirs, rtol=0, atol=TOLERANCE)


def _swapped(first, second):
    def swap(qkv):
        parts = np.split(qkv, 3, axis=-1)
        parts[first], parts[second] = parts[second], parts[first]
        return np.concatenate(parts, axis=-1)

    return {"attn.c_attn.weight": swap, "attn.c_attn.bias": swap}


def _heads_first(qkv):
    """[D, 3 H K] to [D, H 3 K], as GPT-NeoX has them."""
    return qkv.reshape(*qkv.shape[:-1], 3, 2, -1).swapaxes(-3, -2).reshape(qkv.shape)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(_swapped(0, 1), id="query and key"),
        pytest.param(_swapped(1, 2), id="key and value"),
        pytest.param({"attn.c_attn.weight": _heads_first, "attn.c_attn.bias": _heads_first}, id="heads first"),
        pytest.param({"attn.c_attn.weight": lambda w: w.T.reshape(w.shape)}, id="c_attn as [out, in]"),
        pytest.param({"attn.c_proj.weight": np.transpose}, id="c_proj as [out, in]"),
        pytest.param({"mlp.c_fc.weight": lambda w: w.T.reshape(w.shape)}, id="c_fc as [out, in]"),
        pytest.param({"mlp.c_proj.weight": lambda w: w.T.reshape(w.shape)}, id="mlp.c_proj as [out, in]"),
        pytest.param({"ln_1.weight": np.flip}, id="scale"),
        pytest.param({"ln_2.bias": np.flip}, id="bias"),
    ],
)
def test_the_reference_would_show_a_wrong_layout(small, wrong):
    """So small an error as one of these changes the logits by far more than the tolerance."""
    cfg, _, _, tensors = exported(small)
    config, tokens_BT = gpt2_layout.gpt2_config(cfg, 0), small.batch(cfg)["inputs"]
    wrongly = {
        name: wrong[kind](tensor) if (kind := re.sub(r"transformer\.h\.\d+\.", "", name)) in wrong else tensor
        for name, tensor in tensors.items()
    }
    assert wrongly.keys() == tensors.keys()
    change = np.abs(reference_logits(wrongly, config, tokens_BT) - reference_logits(tensors, config, tokens_BT))
    assert change.max() > 1000 * TOLERANCE


def test_the_epsilon_is_that_of_our_norms(small):
    config = gpt2_layout.gpt2_config(small.config(), None)
    assert config["layer_norm_epsilon"] == NormSpec._field_defaults["epsilon"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_bit_for_bit(small, layout):
    cfg, _, params, tensors = exported(small, **layout)
    back = gpt2_layout.from_gpt2(cfg, tensors)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(back)} == {"float32"}
    again = gpt2_layout.to_gpt2(cfg, back)
    assert again.keys() == tensors.keys()
    for name, tensor in again.items():
        np.testing.assert_array_equal(tensor, tensors[name])


@pytest.mark.parametrize("tied", [True, False])
def test_names_and_shapes_are_those_of_transformers(small, tied):
    tensors = exported(small, n_layers=11, tie_embeddings=tied)[-1]
    per_layer = {
        "ln_1.weight": (16,),
        "ln_1.bias": (16,),
        "attn.c_attn.weight": (16, 48),
        "attn.c_attn.bias": (48,),
        "attn.c_proj.weight": (16, 16),
        "attn.c_proj.bias": (16,),
        "ln_2.weight": (16,),
        "ln_2.bias": (16,),
        "mlp.c_fc.weight": (16, 24),
        "mlp.c_fc.bias": (24,),
        "mlp.c_proj.weight": (24, 16),
        "mlp.c_proj.bias": (16,),
    }
    wanted = {f"transformer.h.{i}.{name}": shape for i in range(11) for name, shape in per_layer.items()}
    wanted |= {"transformer.wte.weight": (31, 16), "transformer.wpe.weight": (12, 16)}
    wanted |= {"transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (16,)}
    wanted |= {} if tied else {"lm_head.weight": (31, 16)}
    assert {name: tensor.shape for name, tensor in tensors.items()} == wanted
    assert {tensor.dtype.name for tensor in tensors.values()} == {"float32"}


def test_arrays_are_contiguous_whatever_lies_below_ours(small):
    """safetensors writes the memory of an array as it lies, which of a transposed view is another array."""
    cfg = small.config()
    params = jax.tree.map(lambda x: np.asfortranarray(x), small.build(cfg)[1])
    tensors = gpt2_layout.to_gpt2(cfg, params)
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())
    np.testing.assert_array_equal(tensors["transformer.wte.weight"], params["embedding"])


@pytest.mark.parametrize("scan", [False, True])
def test_layers_keep_their_order_beyond_ten(small, scan):
    cfg = small.config(n_layers=11, scan_layers=scan)
    _, params = small.build(cfg)
    tensors = gpt2_layout.to_gpt2(cfg, params)
    _, layered = functional.unstack_layers(cfg, params)
    for i in (2, 10):
        ours = layered["blocks"][f"layer_{i:03d}"]["mlp"]["down"]["kernel"]
        np.testing.assert_array_equal(tensors[f"transformer.h.{i}.mlp.c_proj.weight"], ours)


@pytest.mark.parametrize("tied", [True, False])
def test_names_without_transformer_and_masks_as_in_openais_checkpoint(small, tied):
    cfg, _, params, tensors = exported(small, tie_embeddings=tied)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    masks = {f"h.{i}.attn.{mask}": np.ones((1, 1, 12, 12), bool) for i in (0, 1) for mask in ("bias", "masked_bias")}
    jax.tree.map(np.testing.assert_array_equal, gpt2_layout.from_gpt2(cfg, bare | masks), params)
    full = {f"transformer.{name}": mask for name, mask in masks.items()}
    jax.tree.map(np.testing.assert_array_equal, gpt2_layout.from_gpt2(cfg, tensors | full), params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_as_it_is(small, dtype):
    cfg, _, _, tensors = exported(small)
    half = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    params = gpt2_layout.from_gpt2(cfg, half)
    again = gpt2_layout.to_gpt2(cfg, params)
    for name, tensor in half.items():
        assert again[name].dtype == np.float32
        np.testing.assert_array_equal(again[name], tensor.astype(np.float32))


def test_a_copy_of_the_tied_embedding_is_left_out_and_another_head_is_refused(small):
    cfg, _, params, tensors = exported(small)
    copy = tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}
    jax.tree.map(np.testing.assert_array_equal, gpt2_layout.from_gpt2(cfg, copy), params)
    other = tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1}
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not .*wte.* tie_word_embeddings = false"):
        gpt2_layout.from_gpt2(cfg, other)


def test_all_that_is_wrong_with_the_arrays_is_named_at_once(small):
    cfg, _, _, tensors = exported(small, tie_embeddings=False)
    del tensors["lm_head.weight"]
    tensors["transformer.h.2.ln_1.weight"] = np.ones(16, np.float32)
    tensors["score.weight"] = np.ones((2, 16), np.float32)
    tensors["transformer.h.1.attn.c_attn.weight"] = tensors["transformer.h.1.attn.c_attn.weight"].T
    tensors["transformer.ln_f.bias"] = np.zeros(16, np.int8)
    tensors["transformer.ln_f.weight"] = np.zeros(16, np.float64)
    with pytest.raises(CheckpointError) as caught:
        gpt2_layout.from_gpt2(cfg, tensors)
    message = str(caught.value)
    assert "missing: lm_head.weight;" in message
    assert "superfluous: transformer.h.2.ln_1.weight, score.weight;" in message
    assert "of wrong shape: transformer.h.1.attn.c_attn.weight of shape [48, 16], not [16, 48];" in message
    assert "not float32, bfloat16 or float16: " in message
    assert "transformer.ln_f.bias of int8" in message and "transformer.ln_f.weight of float64" in message


def test_a_long_list_of_names_is_cut(small):
    cfg, _, _, _ = exported(small)
    with pytest.raises(CheckpointError, match=r"missing: (\S+, ){4}\S+ and 23 more$"):
        gpt2_layout.from_gpt2(cfg, {})


def test_a_parameter_that_is_there_twice_is_refused(small):
    cfg, _, _, tensors = exported(small)
    with pytest.raises(CheckpointError, match=r"transformer\.wpe\.weight is there twice"):
        gpt2_layout.from_gpt2(cfg, tensors | {"wpe.weight": tensors["transformer.wpe.weight"]})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"positions": "rotary"}, r"model\.positions = 'rotary': GPT-2 has 'learned' alone; train"),
        ({"positions": "sinusoidal"}, r"model\.positions = 'sinusoidal': GPT-2 has 'learned' alone; train"),
        ({"norm": "rms"}, r"model\.norm = 'rms': GPT-2 has 'layer' alone; train"),
        ({"mlp": "swiglu"}, r"model\.mlp = 'swiglu': GPT-2 has 'gelu' alone; train"),
        ({"mlp": "relu2", "norm": "rms"}, r"(?s)model\.norm = 'rms'.*model\.mlp = 'relu2'"),
    ],
)
def test_what_gpt2_cannot_express_is_refused_and_named(small, other, message):
    cfg = small.config(**other)
    for refuse in (
        lambda: gpt2_layout.check(cfg),
        lambda: gpt2_layout.to_gpt2(cfg, {}),
        lambda: gpt2_layout.from_gpt2(cfg, {}),
        lambda: gpt2_layout.gpt2_config(cfg, 0),
    ):
        with pytest.raises(ConfigError, match=message):
            refuse()


def test_the_config_comes_back(small):
    cfg = small.config(d_ff=40, tie_embeddings=False, dropout=0.25)
    values = gpt2_layout.gpt2_config(cfg, 7)
    assert (values["bos_token_id"], values["eos_token_id"]) == (7, 7)
    assert small.config(**gpt2_layout.model_fields(values)) == cfg
    unknown = gpt2_layout.gpt2_config(cfg, None)
    assert unknown["eos_token_id"] is None, "left out, it would be 50256"


def test_what_a_config_leaves_out_is_gpt2_small():
    fields = gpt2_layout.model_fields({"model_type": "gpt2", "n_inner": None, "n_ctx": 1024})
    assert fields == {
        "vocab_size": 50_257,
        "d_model": 768,
        "n_layers": 12,
        "n_heads": 12,
        "d_ff": 3072,
        "max_len": 1024,
        "positions": "learned",
        "norm": "layer",
        "mlp": "gelu",
        "tie_embeddings": True,
        "dropout": 0.1,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama"}, "model_type = 'llama': only models with 'gpt2' can"),
        ({"activation_function": "gelu"}, "activation_function = 'gelu': only models with 'gelu_new' or"),
        ({"activation_function": "relu"}, "activation_function = 'relu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06: only models with 1e-05 can"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"n_embd": "768"}, "n_embd = '768' is of type str, not int"),
        ({"n_layer": 12.0}, "n_layer = 12.0 is of type float, not int"),
        ({"n_head": True}, "n_head = True is of type bool, not int"),
        ({"n_inner": [1]}, r"n_inner = \[1\] is of type list, not int"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1 is of type int, not bool"),
        ({"resid_pdrop": None}, "resid_pdrop = None is of type NoneType, not float"),
    ],
)
def test_a_config_of_another_model_is_refused_and_named(values, message):
    with pytest.raises(CheckpointError, match=f"config.json: {message}"):
        gpt2_layout.model_fields(values)


def test_the_tanh_gelu_has_two_names():
    assert gpt2_layout.model_fields({"activation_function": "gelu_pytorch_tanh"})["mlp"] == "gelu"
