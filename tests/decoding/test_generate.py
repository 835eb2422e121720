"""The compiled loop generates what the full forward pass would, without looking at anything else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.decoding import generate
from ryot_jax.decoding.generate import _compiled_loop, _loop
from ryot_jax.kernels import KernelPlan
from ryot_jax.model import functional
from ryot_jax.runtime.errors import ConfigError

PROMPT_BS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]], np.int32)
KINDS = [
    {"positions": "learned", "norm": "layer", "mlp": "gelu"},
    {"positions": "sinusoidal", "norm": "rms", "mlp": "relu2"},
    {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "scan_layers": True},
]


def greedy_without_cache(graphdef, params, cfg, prompt_BS, n):
    """The definition: a full forward pass for each new token. It is causal, so padding does not count."""
    forward = jax.jit(
        lambda ids: (
            functional.hidden(graphdef, params, ids, plan=KernelPlan()) @ functional.unembedding(graphdef, params).T
        )
    )
    ids_BT = np.zeros((len(prompt_BS), cfg.max_len), np.int32)
    S = prompt_BS.shape[1]
    ids_BT[:, :S] = prompt_BS
    for t in range(S, S + n):
        ids_BT[:, t] = np.argmax(forward(ids_BT)[:, t - 1], axis=-1)
    return ids_BT[:, S : S + n]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["positions"])
def test_greedy_is_the_argmax_of_the_full_forward_pass(make_model, kind):
    graphdef, params, cfg = make_model(**kind)
    ids_BN = generate(graphdef, params, cfg, PROMPT_BS, max_new_tokens=12)
    assert ids_BN.shape == (2, 12) and ids_BN.dtype == jnp.int32
    np.testing.assert_array_equal(ids_BN, greedy_without_cache(graphdef, params, cfg, PROMPT_BS, 12))
    assert len(np.unique(ids_BN)) > 4, "a model that repeats itself would not show an error"


def test_one_token_after_a_prompt_of_one(make_model):
    graphdef, params, cfg = make_model()
    one = generate(graphdef, params, cfg, PROMPT_BS[:, :1], max_new_tokens=1)
    np.testing.assert_array_equal(one, greedy_without_cache(graphdef, params, cfg, PROMPT_BS[:, :1], 1))


def test_sampling_depends_on_key_and_temperature_and_compiles_once(make_model):
    graphdef, params, cfg = make_model()

    def draw(seed, temperature):
        key = jax.random.key(seed)
        return np.asarray(
            generate(graphdef, params, cfg, PROMPT_BS, max_new_tokens=12, temperature=temperature, key=key)
        )

    first = draw(0, 1.0)
    programs = _compiled_loop(jax.default_backend())._cache_size()
    np.testing.assert_array_equal(first, draw(0, 1.0))
    assert not np.array_equal(first, draw(1, 1.0))
    nearly_greedy = draw(1, 1e-4)
    assert _compiled_loop(jax.default_backend())._cache_size() == programs
    np.testing.assert_array_equal(nearly_greedy, generate(graphdef, params, cfg, PROMPT_BS, max_new_tokens=12))


def test_every_step_draws_anew(make_model):
    graphdef, params, cfg = make_model()
    params = jax.tree.map(jnp.zeros_like, params)  # all tokens equally likely, whatever came before
    key = jax.random.key(0)
    ids_BN = generate(graphdef, params, cfg, PROMPT_BS, max_new_tokens=12, temperature=1.0, key=key)
    # 24 draws from 31 tokens give 17 distinct ones on average; a key used twice at most 12 or 2.
    assert len(np.unique(ids_BN)) > 12
    of_two = generate(graphdef, params, cfg, PROMPT_BS, max_new_tokens=12, temperature=1.0, top_k=2, key=key)
    assert len(np.unique(of_two)) == 2


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="YNN is a library of the CPU backend")
def test_the_loop_has_no_ynn_fusions_on_cpu(make_model):
    graphdef, params, cfg = make_model()
    arguments = graphdef, cfg, 12, True, 0, params, jnp.asarray(PROMPT_BS), jnp.float32(0), jax.random.key(0)
    assert "__ynn" not in _compiled_loop("cpu").lower(*arguments).compile().as_text()
    defaults = jax.jit(_loop, static_argnums=range(5))
    assert "__ynn" in defaults.lower(*arguments).compile().as_text(), "else the option would do nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 13}, r"max_new_tokens = 13: .* at most 12"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"temperature": 1.0}, "needs a key"),
        ({"top_k": 32}, "top_k = 32"),
        ({"prompt_ids_BS": PROMPT_BS[0]}, r"shape \(4,\)"),
        ({"prompt_ids_BS": PROMPT_BS[:, :0]}, r"shape \(2, 0\)"),
        ({"prompt_ids_BS": PROMPT_BS.astype(float)}, "float64"),
        ({"prompt_ids_BS": PROMPT_BS + 25}, "vocab_size = 31"),
    ],
)
def test_what_cannot_be_generated_is_named(make_model, change, message):
    graphdef, params, cfg = make_model()
    arguments = {"prompt_ids_BS": PROMPT_BS, "max_new_tokens": 4} | change
    with pytest.raises(ConfigError, match=message):
        generate(graphdef, params, cfg, **arguments)
