import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from ryot_jax.data import tokenizer
from ryot_jax.runtime.errors import ConfigError, DataError

TEXTS = [
    "def value(self):\n    return self.value\n" * 20,
    "class Value:\n    def __init__(self): pass\n" * 20,
    "\u00e9\u4f60",
]
BPE = tokenizer.train_bpe(TEXTS, 285)
BYTE = tokenizer.byte_tokenizer(300)


@pytest.mark.parametrize("kind", [BPE, BYTE], ids=["bpe", "byte"])
@given(text=st.text(max_size=60))
def test_decoding_inverts_encoding(kind, text):
    ids = kind.encode(text)
    assert kind.decode(ids) == text
    assert all(0 <= i < kind.vocab_size for i in ids)
    assert kind.eod not in ids
    assert kind.encode_batch([text])[0].tolist() == ids


def test_byte_ids_are_the_bytes_of_utf8():
    text = "a\u00e9\u4f60\n\0\U0001f600"
    assert BYTE.encode(text) == list(text.encode())
    assert (BYTE.eod, BYTE.vocab_size) == (256, 257)


def test_bpe_has_the_bytes_and_then_merges_of_the_text():
    assert BPE.eod == 0
    assert BPE.vocab_size == 285
    assert len(BPE.encode("self.value")) < len("self.value")
    assert BPE.decode([BPE.encode("value")[0]]) in "value"


@pytest.mark.parametrize("kind", [BPE, BYTE], ids=["bpe", "byte"])
def test_the_name_of_the_special_token_in_a_text_is_text(kind):
    text = f"a{tokenizer.END_OF_DOCUMENT}b"
    ids = kind.encode(text)
    assert kind.eod not in ids
    assert kind.decode(ids) == text
    assert kind.eod not in kind.encode_batch([text])[0]
    again = tokenizer.from_json(kind.to_json(), kind.eod)
    assert again.encode(text) == ids


@pytest.mark.parametrize("kind", [BPE, BYTE], ids=["bpe", "byte"])
def test_ids_without_text_decode_to_nothing(kind):
    ids = kind.encode("ab")
    assert kind.decode([*ids, kind.eod, kind.vocab_size + 7]) == "ab"


def test_bytes_that_are_not_utf8_decode_to_the_replacement_character():
    assert BYTE.decode(np.asarray([97, 0xE9, 98], np.uint16)) == "a\ufffdb"


def test_training_does_not_depend_on_the_process_or_its_threads(tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    program = (
        "import json, sys; from ryot_jax.data import tokenizer;"
        "print(tokenizer.train_bpe(json.load(open(sys.argv[1])), 285).hash)"
    )
    for threads in ("1", "3"):
        out = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "texts.json")],
            env={"RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert out.stdout.strip() == BPE.hash


def test_the_hash_tells_tokenizers_apart():
    assert BPE.hash == tokenizer.from_json(BPE.to_json(), 0).hash
    assert len({BPE.hash, BYTE.hash, tokenizer.train_bpe(TEXTS, 280).hash}) == 3


def test_a_small_text_gives_a_small_vocabulary():
    assert tokenizer.train_bpe(["ab ab"], 2000).vocab_size == 258


@pytest.mark.parametrize("vocab_size", [256, 65_537])
@pytest.mark.parametrize("make", [tokenizer.byte_tokenizer, lambda size: tokenizer.train_bpe(TEXTS, size)])
def test_a_vocabulary_that_does_not_fit_is_refused(make, vocab_size):
    with pytest.raises(ConfigError, match=rf"model\.vocab_size = {vocab_size} .* between 257 and 65536"):
        make(vocab_size)


def test_a_file_is_loaded_without_its_truncation_and_padding(tmp_path):
    inner = tokenizers.Tokenizer.from_str(BPE.to_json())
    inner.enable_truncation(4)
    inner.enable_padding(length=500)
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = tokenizer.from_file(str(tmp_path / "tokenizer.json"), 300)
    assert loaded.encode(TEXTS[0]) == BPE.encode(TEXTS[0])
    assert loaded.encode_batch([TEXTS[0]])[0].tolist() == BPE.encode(TEXTS[0])
    assert (loaded.eod, loaded.vocab_size) == (0, 285)


def test_a_files_other_names_for_the_end_are_known(tmp_path):
    (tmp_path / "tokenizer.json").write_text(BPE.to_json().replace(tokenizer.END_OF_DOCUMENT, "</s>"))
    assert tokenizer.from_file(str(tmp_path / "tokenizer.json"), 300).eod == 0


def test_a_file_that_cannot_be_used_is_refused(tmp_path):
    file = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"tokenizer\.path = '' is not a file"):
        tokenizer.from_file("", 300)
    with pytest.raises(DataError, match=r"tokenizer\.path = '.*tokenizer\.json' is not a file"):
        tokenizer.from_file(str(file), 300)
    file.write_text('{"model": 1}')
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer\.json that .* reads"):
        tokenizer.from_file(str(file), 300)
    file.write_text(BPE.to_json().replace(tokenizer.END_OF_DOCUMENT, "[OTHER]"))
    with pytest.raises(DataError, match="no token ends a document"):
        tokenizer.from_file(str(file), 300)
    file.write_text(BPE.to_json())
    with pytest.raises(ConfigError, match=r"model\.vocab_size = 284, but .* has 285 ids"):
        tokenizer.from_file(str(file), 284)


def test_the_end_may_be_named_by_its_id(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(BPE.to_json())
    assert tokenizer.read(file).eod == 0
    assert tokenizer.read(file, eod=7).eod == 7
    assert tokenizer.read(file, eod=50_256).eod == 0, "an id that the file does not have"
    file.write_text(BPE.to_json().replace(tokenizer.END_OF_DOCUMENT, "[OTHER]"))
    found = tokenizer.read(file, eod=0)
    assert (found.eod, found.eod_name) == (0, "[OTHER]")


def test_gpt2s_two_files_give_its_ids(tmp_path):
    tokenizers.Tokenizer.from_str(BPE.to_json()).model.save(str(tmp_path))
    found = tokenizer.read_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    text = f"def value(self): \u00e9{tokenizer.END_OF_DOCUMENT}"
    assert found.encode(text) == BPE.encode(text)
    assert found.decode([*found.encode(text), found.eod]) == text
    assert (found.eod, found.eod_name, found.vocab_size) == (0, tokenizer.END_OF_DOCUMENT, 285)
    assert tokenizer.from_json(found.to_json(), found.eod).hash == found.hash


def test_gpt2s_two_files_that_cannot_be_used_are_refused(tmp_path):
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text('{"a": 0}')
    with pytest.raises(DataError, match=r"vocab\.json and merges\.txt cannot be read .*; fetch them again"):
        tokenizer.read_gpt2(vocab, merges)
    merges.write_text("#version: 0.2\n")
    with pytest.raises(DataError, match=r"vocab\.json: no token ends a document"):
        tokenizer.read_gpt2(vocab, merges)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match=r"tokenizer\.kind = 'word' is unknown; choose"):
        tokenizer.settings("word", "", 300)


def test_without_a_tokenizer_both_ways_name_the_remedy():
    missing = tokenizer.NoTokenizer(300)
    for use in (lambda: missing.encode("a"), lambda: missing.decode([1])):
        with pytest.raises(DataError, match=r"tokenizer\.kind = 'file' and tokenizer\.path"):
            use()
