import numpy as np
import pytest

from ryot_jax.data import token_files, tokenizer
from ryot_jax.runtime.errors import ConfigError, DataError


@pytest.fixture
def pair(tmp_path):
    """A folder with train.bin (ids 0 to 199) and val.bin (ids 200 to 249)."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    np.arange(200, dtype="<u2").tofile(folder / "train.bin")
    np.arange(200, 250, dtype="<u2").tofile(folder / "val.bin")
    return folder


@pytest.fixture
def tokens(prepare):
    return lambda **fields: prepare(source="tokens", **fields)


def test_a_folder_holds_both_parts(tokens, pair):
    corpus = tokens(path=str(pair))
    np.testing.assert_array_equal(corpus.train, np.arange(200))
    np.testing.assert_array_equal(corpus.heldout, np.arange(200, 250))
    assert isinstance(corpus.train, np.memmap)
    assert corpus.description["train"] == {"files": 1, "bytes": 400, "tokens": 200}


def test_both_files_may_be_named(tokens, pair):
    corpus = tokens(path=str(pair / "val.bin"), heldout_path=str(pair / "train.bin"))
    assert (len(corpus.train), len(corpus.heldout)) == (50, 200)


def test_the_end_of_a_single_file_is_held_out(tokens, pair):
    corpus = tokens(path=str(pair / "train.bin"), heldout_fraction=0.25)
    np.testing.assert_array_equal(corpus.train, np.arange(150))
    np.testing.assert_array_equal(corpus.heldout, np.arange(150, 200))
    with pytest.raises(DataError, match=r"the held-out part is empty at data\.heldout_fraction = 0\.001"):
        tokens(path=str(pair / "train.bin"), heldout_fraction=0.001)


def test_ids_of_the_cache_as_token_files_have_the_same_data_hash(tokens, prepare, texts, tmp_path):
    built = prepare(path=str(texts))
    (folder,) = (tmp_path / "cache/corpora").iterdir()
    given = tokens(path=str(folder / "train.bin"), heldout_path=str(folder / "heldout.bin"))
    assert given.data_hash == built.data_hash


def test_a_second_start_does_not_read_the_ids(tokens, pair, monkeypatch):
    first = tokens(path=str(pair))
    monkeypatch.setattr(token_files, "_check", lambda *_: pytest.fail("read again"))
    second = tokens(path=str(pair))
    assert (first.description["cache"], second.description["cache"]) == ("built", "hit")
    assert first.data_hash == second.data_hash


def test_changed_ids_are_read_again(tokens, pair):
    first = tokens(path=str(pair))
    np.arange(1, 201, dtype="<u2").tofile(pair / "train.bin")
    assert tokens(path=str(pair)).data_hash != first.data_hash


@pytest.mark.parametrize("chunk", [2**24, 7])
def test_an_id_beyond_the_vocabulary_is_refused_with_its_byte(tokens, pair, monkeypatch, chunk):
    monkeypatch.setattr(token_files, "_CHUNK", chunk)
    with pytest.raises(DataError, match=r"train\.bin: id 180 at byte 360 is beyond model\.vocab_size = 180"):
        tokens(path=str(pair), vocab_size=180)
    with pytest.raises(DataError, match=r"val\.bin: id 230 at byte 60 is beyond model\.vocab_size = 230"):
        tokens(path=str(pair), vocab_size=230)
    with pytest.raises(DataError, match=r"train\.bin: id 190 at byte 380 is beyond"):
        tokens(path=str(pair / "train.bin"), vocab_size=190, heldout_fraction=0.25)


def test_every_uint16_id_fits_the_largest_vocabulary(tokens, pair):
    np.asarray([65_535] * 50, "<u2").tofile(pair / "train.bin")
    assert tokens(path=str(pair), vocab_size=65_536).train.max() == 65_535


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"train\.bin is empty; write the ids again"),
        (b"\1\0\2", r"train\.bin has 3 bytes, an odd number, .* byte 2\); write it again"),
        (None, r"train\.bin is not a file; data\.source = 'tokens' needs"),
    ],
)
def test_a_file_that_is_no_ids_is_refused(tokens, pair, content, message):
    (pair / "train.bin").unlink()
    if content is not None:
        (pair / "train.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        tokens(path=str(pair))


def test_a_cap_on_documents_is_refused(tokens, pair):
    with pytest.raises(ConfigError, match=r"data\.max_documents = 3 has no meaning"):
        tokens(path=str(pair), max_documents=3)


def test_the_tokenizer_is_the_one_given_or_none(tokens, pair, tmp_path):
    made = tokenizer.train_bpe(["some text " * 9], 270)
    (tmp_path / "tokenizer.json").write_text(made.to_json())
    given = tokens(path=str(pair), kind="file", tokenizer_path=str(tmp_path / "tokenizer.json"))
    assert given.tokenizer.hash == made.hash
    assert tokens(path=str(pair), kind="byte").tokenizer.decode([104, 105]) == "hi"
    without = tokens(path=str(pair))
    assert without.tokenizer.vocab_size == 300
    with pytest.raises(DataError, match=r"tokenizer\.path"):
        without.tokenizer.encode("a")
