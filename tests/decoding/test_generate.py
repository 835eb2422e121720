"""The compiled loop generates what the full forward pass would, without looking at anything else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.decoding import Sampling, Speculation, generate, lookup_draft, prepare, stream
from ryot_jax.decoding.generate import _generate, programs
from ryot_jax.decoding.request import checked_request
from ryot_jax.kernels import cpu
from ryot_jax.runtime.errors import ConfigError

PROMPT_BS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]], np.int32)
RAGGED = [[3, 1, 4, 1], [5], [9, 2, 6]]
KINDS = [
    {"positions": "learned", "norm": "layer", "mlp": "gelu"},
    {"positions": "sinusoidal", "norm": "rms", "mlp": "relu2"},
    {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "scan_layers": True},
]


def greedy_without_cache(model, prompt, n):
    """The definition: a full forward pass for each new token. It is causal, so padding does not count."""
    forward = jax.jit(model.logits)
    ids_1T = np.zeros((1, model.cfg.max_len), np.int32)
    ids_1T[0, : len(prompt)] = prompt
    for t in range(len(prompt), len(prompt) + n):
        ids_1T[0, t] = np.argmax(forward(ids_1T)[0, t - 1])
    return ids_1T[0, len(prompt) : len(prompt) + n]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["positions"])
def test_greedy_is_the_argmax_of_the_full_forward_pass(make_model, kind, engine):
    if engine[1] == "bfloat16":
        pytest.skip("rounded to bfloat16, near-ties fall otherwise")
    model = make_model(**kind)
    found = generate(model.decoder(engine), RAGGED, max_new_tokens=12)
    assert found.ids_BN.shape == (3, 12) and found.ids_BN.dtype == jnp.int32
    for prompt, ids_N in zip(RAGGED, found.ids_BN, strict=True):
        np.testing.assert_array_equal(ids_N, greedy_without_cache(model, prompt, 12))
    assert len(np.unique(found.ids_BN)) > 4, "a model that repeats itself would not show an error"
    np.testing.assert_array_equal(found.length_B, [12, 12, 12])
    assert found.steps == 11 and not found.drafted_B.any()


def test_one_token_after_a_prompt_of_one(make_model, engine):
    model = make_model()
    one = generate(model.decoder(engine), [[3]], max_new_tokens=1)
    assert one.steps == 0
    if engine[1] == "float32":
        np.testing.assert_array_equal(one.ids_BN[0], greedy_without_cache(model, [3], 1))


def test_a_prompt_is_continued_alike_alone_and_in_a_ragged_batch(make_model, engine):
    decoder = make_model().decoder(engine)
    for sampling in (Sampling(), Sampling(1.0, top_p=0.9)):
        key = jax.random.key(3)
        together = generate(decoder, RAGGED, max_new_tokens=12, sampling=sampling, key=key)
        for i, prompt in enumerate(RAGGED):
            alone = generate(decoder, [prompt], max_new_tokens=12, sampling=sampling, key=key, first_sequence=i)
            np.testing.assert_array_equal(alone.ids_BN[0], together.ids_BN[i])
    # What stands behind a prompt in the array counts for nothing.
    arrays = [np.full((3, 5), filler, np.int32) for filler in (0, 30)]
    for array in arrays:
        for row, prompt in zip(array, RAGGED, strict=True):
            row[: len(prompt)] = prompt
    lengths = [len(prompt) for prompt in RAGGED]
    for array in arrays:
        found = generate(decoder, array, prompt_length_B=lengths, max_new_tokens=12)
        np.testing.assert_array_equal(found.ids_BN, generate(decoder, RAGGED, max_new_tokens=12).ids_BN)


@pytest.mark.usefixtures("quick_compilation")
def test_a_stop_token_ends_its_sequence_alone(make_model, engine):
    decoder = make_model().decoder(engine)
    whole = np.asarray(generate(decoder, RAGGED, max_new_tokens=12).ids_BN)
    stop = int(whole[1, 4])
    found = generate(decoder, RAGGED, max_new_tokens=12, stop_tokens=[30, stop])
    lengths = []
    for ids_N, whole_N, length in zip(found.ids_BN, whole, found.length_B, strict=True):
        ends = np.flatnonzero((whole_N == stop) | (whole_N == 30))
        lengths.append(ends[0] + 1 if len(ends) else 12)
        assert length == lengths[-1]
        np.testing.assert_array_equal(ids_N[:length], whole_N[:length])
        assert not ids_N[length:].any()
    assert min(lengths) <= 5
    assert found.steps == max(lengths) - 1, "the loop ends with the last sequence"


def test_a_stream_is_what_generate_gives_bit_by_bit(make_model, engine):
    decoder = make_model().decoder(engine)
    settings = {"max_new_tokens": 12, "sampling": Sampling(0.7), "key": jax.random.key(1), "stop_tokens": [4]}
    whole = generate(decoder, RAGGED, **settings)
    for every in (1, 5, 12, 40):
        parts = list(stream(decoder, RAGGED, every=every, **settings))
        for part in parts:
            for ids_N, whole_N, length in zip(part.ids_BN, whole.ids_BN, part.length_B, strict=True):
                np.testing.assert_array_equal(ids_N[:length], whole_N[:length])
        # The state behind a part was given away for the next one; the part is not.
        assert [int(part.steps) for part in parts] == sorted(int(part.steps) for part in parts)
        assert not any(part.accepted_B.is_deleted() for part in parts)
        for found, wanted in zip(parts[-1], whole, strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert len(parts) >= 12 // every and int(parts[0].length_B.max()) == min(every, 12)
    with pytest.raises(ConfigError, match="every = 0"):
        next(stream(decoder, RAGGED, every=0, **settings))


def test_sampling_depends_on_key_and_temperature_and_compiles_once(make_model):
    decoder = make_model().decoder()

    def draw(seed, temperature):
        key = jax.random.key(seed)
        found = generate(decoder, PROMPT_BS, max_new_tokens=12, sampling=Sampling(temperature), key=key)
        return np.asarray(found.ids_BN)

    first = draw(0, 1.0)
    compiled = programs("cpu").generate._cache_size()
    np.testing.assert_array_equal(first, draw(0, 1.0))
    assert not np.array_equal(first, draw(1, 1.0))
    nearly_greedy = draw(1, 1e-4)
    assert programs("cpu").generate._cache_size() == compiled
    np.testing.assert_array_equal(nearly_greedy, generate(decoder, PROMPT_BS, max_new_tokens=12).ids_BN)


def test_every_step_draws_anew(make_model, engine):
    model = make_model()
    model.params = jax.tree.map(jnp.zeros_like, model.params)  # all tokens equally likely, whatever came before
    decoder, key = model.decoder(engine), jax.random.key(0)
    found = generate(decoder, PROMPT_BS, max_new_tokens=12, sampling=Sampling(1.0), key=key)
    # 24 draws from 31 tokens give 17 distinct ones on average; a key used twice at most 12 or 2.
    assert len(np.unique(found.ids_BN)) > 12
    of_two = generate(decoder, PROMPT_BS, max_new_tokens=12, sampling=Sampling(1.0, top_k=2), key=key)
    assert len(np.unique(of_two.ids_BN)) == 2


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="YNN is a library of the CPU backend")
def test_the_loop_has_no_ynn_fusions_on_cpu(make_model):
    request = checked_request(make_model().decoder(), PROMPT_BS, None, 12, Sampling(), (), None, None)
    assert "__ynn" not in programs("cpu").generate.lower(*request).compile().as_text()
    defaults = jax.jit(_generate, static_argnums=0)
    assert "__ynn" in defaults.lower(*request).compile().as_text(), "else the option would do nothing"


def test_the_loop_updates_its_arrays_in_place(make_model, kernel):
    """A copy of the cache at each step would cost more than the step."""
    decoder = make_model().decoder(kernel)
    draft = lookup_draft(31, successor_V=jnp.zeros(31, jnp.int32))
    for speculation in (None, Speculation(draft)):
        request = checked_request(decoder, PROMPT_BS, None, 12, Sampling(), (), speculation, None)
        text = programs("cpu").generate.lower(*request).compile().as_text()
        (body,) = re.findall(r"while\(.*body=(%\S+?)[, ]", text)
        loop = re.search(rf"^{re.escape(body)} .*?^}}", text, re.MULTILINE | re.DOTALL)[0]
        assert "ryot_decode_step" in loop
        assert not re.findall(r"u32\[\S+ copy\(", loop)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 13}, r"max_new_tokens = 13: .* at most 12"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"sampling": Sampling(1.0)}, "needs a key"),
        ({"sampling": Sampling(1.0, top_k=32), "key": jax.random.key(0)}, "top_k = 32"),
        ({"stop_tokens": [31]}, "stop token 31"),
        ({"prompt_BS": PROMPT_BS[0]}, r"shape \(4,\)"),
        ({"prompt_BS": PROMPT_BS[:, :0]}, r"shape \(2, 0\)"),
        ({"prompt_BS": PROMPT_BS.astype(float)}, "float64"),
        ({"prompt_BS": PROMPT_BS + 25}, "vocab_size = 31"),
        ({"prompt_BS": [[1], []]}, r"prompts of \[1, 0\] tokens"),
        ({"prompt_BS": []}, r"prompts of \[\] tokens"),
        ({"prompt_length_B": [4]}, r"prompt_length_B of shape \(1,\)"),
        ({"prompt_length_B": [4, 0]}, "prompt_length_B = 0 to 4"),
        ({"prompt_length_B": [4, 5]}, "prompt_length_B = 4 to 5"),
    ],
)
def test_what_cannot_be_generated_is_named(make_model, change, message):
    arguments = {"prompt_BS": PROMPT_BS, "max_new_tokens": 4} | change
    with pytest.raises(ConfigError, match=message):
        generate(make_model().decoder(), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "gpu"}, "engine = 'gpu'"),
        ({"dtype": "float16"}, "dtype = 'float16'"),
        ({"engine": "reference", "dtype": "bfloat16"}, "compute_dtype = 'float32'"),
    ],
)
def test_what_cannot_be_prepared_is_named(make_model, change, message):
    model = make_model()
    with pytest.raises(ConfigError, match=message):
        prepare(model.params, model.cfg, **change)


def test_without_kernels_the_model_decodes_itself(make_model, monkeypatch):
    model = make_model()
    monkeypatch.setattr(cpu, "unavailable_reason", lambda dtype="float32": "none were built")
    assert (model.decoder(("auto", "auto")).engine, model.decoder(("auto", "auto")).dtype) == ("reference", "float32")
    with pytest.raises(ConfigError, match="engine = 'cpu': none were built"):
        model.decoder(("cpu", "auto"))
