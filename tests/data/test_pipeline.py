import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from ryot_jax.data import build, documents, text_files, tokenizer
from ryot_jax.data import cache as caches
from ryot_jax.runtime.errors import ConfigError, DataError


def refuse(*_, **__):
    raise AssertionError("this must not be called")


def documents_of(ids: np.ndarray, made) -> list[str]:
    parts = np.split(np.asarray(ids), np.flatnonzero(ids == made.eod) + 1)
    return [made.decode(part) for part in parts if len(part)]


@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_the_ids_are_the_documents_each_with_its_end(prepare, data_config, texts, kind):
    corpus = prepare(path=str(texts), kind=kind)
    source = documents.open_source(data_config(path=str(texts)))
    found = list(source.read(documents.Tally()))
    assert documents_of(corpus.train, corpus.tokenizer) == [d.text for d in found if not d.heldout]
    assert documents_of(corpus.heldout, corpus.tokenizer) == [d.text for d in found if d.heldout]
    assert corpus.train[-1] == corpus.heldout[-1] == corpus.tokenizer.eod


def test_the_corpus_is_read_only_uint16_below_the_vocabulary(prepare, texts):
    corpus = prepare(path=str(texts))
    for ids in (corpus.train, corpus.heldout):
        assert isinstance(ids, np.memmap)
        assert ids.dtype == np.uint16
        assert ids.max() < corpus.tokenizer.vocab_size <= 300
        with pytest.raises(ValueError, match="read-only"):
            ids[0] = 1


def test_the_description_counts_both_parts(prepare, texts):
    (texts / "copy.txt").write_text((texts / "file_00.txt").read_text())
    corpus = prepare(path=str(texts))
    description = corpus.description
    assert description["train"]["documents"] + description["heldout"]["documents"] == 40
    size = sum(file.stat().st_size for file in texts.glob("file_*"))
    assert description["train"]["bytes"] + description["heldout"]["bytes"] == size
    assert description["train"]["tokens"] == len(corpus.train)
    assert description["heldout"]["tokens"] == len(corpus.heldout)
    assert description["left_out"] == {"duplicates": 1}
    assert (description["source"], description["cache"]) == ("text", "built")
    assert description["seconds"] > 0


def test_the_data_hash_is_over_both_token_files(prepare, texts):
    corpus = prepare(path=str(texts))
    digests = [hashlib.sha256(ids.tobytes()).digest() for ids in (corpus.train, corpus.heldout)]
    assert corpus.data_hash == hashlib.sha256(b"".join(digests)).hexdigest()


def test_a_second_start_reads_no_text(prepare, texts, monkeypatch):
    first, log = prepare(path=str(texts)), []
    monkeypatch.setattr(text_files, "read_text", refuse)
    monkeypatch.setattr(tokenizer, "train_bpe", refuse)
    second = prepare(path=str(texts), log=log)
    assert second.description["cache"] == "hit"
    assert (second.data_hash, second.tokenizer.hash) == (first.data_hash, first.tokenizer.hash)
    np.testing.assert_array_equal(second.train, first.train)
    assert {**first.description, "cache": "hit", "seconds": 0} == {**second.description, "seconds": 0}
    assert log == []


def test_files_touched_but_not_changed_are_read_and_not_tokenized(prepare, texts, monkeypatch):
    first = prepare(path=str(texts))
    for file in texts.iterdir():
        os.utime(file, (1, 1))
    monkeypatch.setattr(tokenizer, "train_bpe", refuse)
    second = prepare(path=str(texts))
    assert (second.description["cache"], second.data_hash) == ("hit", first.data_hash)


def test_changed_text_and_changed_settings_are_built_anew(prepare, texts):
    hashes = {prepare(path=str(texts)).data_hash}
    (texts / "file_00.txt").write_text("something else\n")
    for fields in ({}, {"vocab_size": 290}, {"kind": "byte"}, {"heldout_fraction": 0.3}):
        corpus = prepare(path=str(texts), **fields)
        assert corpus.description["cache"] == "built"
        hashes.add(corpus.data_hash)
    assert len(hashes) == 5


@pytest.mark.parametrize("name", ["train.bin", "heldout.bin", "tokenizer.json", "meta.json"])
def test_a_damaged_cache_is_built_anew_with_a_word(prepare, texts, tmp_path, name):
    first = prepare(path=str(texts))
    (file,) = (tmp_path / "cache/corpora").glob(f"*/{name}")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x55
    file.write_bytes(data[:-2] if name == "meta.json" else data)
    log = []
    second = prepare(path=str(texts), log=log)
    assert f"is damaged ({'meta.json' if name == 'meta.json' else 'the bytes of ' + name}" in log[0]
    assert (second.description["cache"], second.data_hash) == ("built", first.data_hash)
    assert prepare(path=str(texts)).description["cache"] == "hit"


def test_a_removed_corpus_is_built_anew(prepare, texts, tmp_path):
    first = prepare(path=str(texts))
    (folder,) = (tmp_path / "cache/corpora").iterdir()
    folder.rename(tmp_path / "gone")
    second = prepare(path=str(texts))
    assert (second.description["cache"], second.data_hash) == ("built", first.data_hash)


def test_the_tokenizer_never_sees_held_out_text(prepare, tmp_path):
    (tmp_path / "train.txt").write_text("alpha beta\n" * 200)
    (tmp_path / "held.txt").write_text("zzyzx qwxyz\n" * 200)
    corpus = prepare(path=str(tmp_path / "train.txt"), heldout_path=str(tmp_path / "held.txt"))
    assert len(corpus.tokenizer.encode("zzyzx")) == 5
    assert len(corpus.tokenizer.encode(" beta")) == 1


def test_a_vocabulary_that_the_text_does_not_fill_is_said(prepare, texts):
    log = []
    corpus = prepare(path=str(texts), vocab_size=5000, log=log)
    assert corpus.tokenizer.vocab_size < 5000
    assert any(f"a vocabulary of {corpus.tokenizer.vocab_size}, fewer than" in line for line in log)


def test_a_tokenizer_file_is_used_and_told_apart(prepare, texts, tmp_path):
    trained = prepare(path=str(texts), vocab_size=290)
    (tmp_path / "tokenizer.json").write_text(trained.tokenizer.to_json())
    given = prepare(path=str(texts), kind="file", tokenizer_path=str(tmp_path / "tokenizer.json"))
    assert (given.tokenizer.hash, given.data_hash) == (trained.tokenizer.hash, trained.data_hash)
    other = tokenizer.train_bpe(["another text " * 9], 270)
    (tmp_path / "tokenizer.json").write_text(other.to_json())
    changed = prepare(path=str(texts), kind="file", tokenizer_path=str(tmp_path / "tokenizer.json"))
    assert changed.description["cache"] == "built"
    assert changed.tokenizer.hash == other.hash


def test_pieces_of_a_long_document_are_one_document(prepare, texts, monkeypatch):
    whole = prepare(path=str(texts), kind="byte")
    monkeypatch.setattr(caches, "VERSION", caches.VERSION + 1)  # so that the cache is not used
    monkeypatch.setattr(build.pieces, "__defaults__", (50,))
    monkeypatch.setattr(build, "_TOGETHER", 120)
    assert prepare(path=str(texts), kind="byte").data_hash == whole.data_hash


@pytest.mark.parametrize("text", ["", "ab", "ab\ncd\n\nefghijklmnop\nq", "\n\n\n\n\n\n", "abcdefghijklm"])
def test_pieces_join_to_the_text_and_only_the_last_is_marked(text):
    found = list(build.pieces(text, size=5))
    assert "".join(piece for piece, _ in found) == text
    assert [last for _, last in found] == [False] * (len(found) - 1) + [True]
    assert all(len(piece) <= 5 for piece, _ in found)


def test_text_that_changes_while_it_is_read_is_refused(prepare, texts, tmp_path, monkeypatch):
    train = tokenizer.train_bpe

    def train_and_change(*args):
        (texts / "file_05.txt").write_text("changed meanwhile")
        return train(*args)

    monkeypatch.setattr(tokenizer, "train_bpe", train_and_change)
    with pytest.raises(DataError, match="changed while they were read; run the same command again"):
        prepare(path=str(texts))
    assert list((tmp_path / "cache/corpora").iterdir()) == []


def test_processes_that_start_together_get_the_same_corpus(prepare, texts, tmp_path):
    program = (
        "import sys; from ryot_jax import config; from ryot_jax.data import pipeline;"
        "c = config.get_default();"
        "c.data.update(source='text', path=sys.argv[1], cache_dir=sys.argv[2]);"
        "print(pipeline.prepare(c.data, c.tokenizer, 300, lambda _: None).data_hash)"
    )
    command = [sys.executable, "-c", program, str(texts), str(tmp_path / "cache")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    hashes = {process.communicate()[0].strip() for process in started}
    assert hashes == {prepare(path=str(texts)).data_hash}
    assert len(list((tmp_path / "cache/corpora").iterdir())) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heldout_fraction": 0.0}, r"the held-out part is empty \(40 for training, 0 held out\); raise"),
        ({"heldout_fraction": 1.0}, r"no training document is left \(0 for training, 40 held out\); give"),
    ],
)
def test_an_empty_part_is_refused(prepare, texts, fields, message):
    with pytest.raises(DataError, match=message):
        prepare(path=str(texts), **fields)


def test_empty_text_is_refused(prepare, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"no training document is left \(0 for .* 2 empty left out\)"):
        prepare(path=str(tmp_path / "empty.txt"))


def test_a_bad_file_in_a_folder_stops_with_its_name(prepare, texts):
    (texts / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(DataError, match=r"image\.png: binary, not text \(NUL byte at byte 8\)"):
        prepare(path=str(texts))


def test_a_vocabulary_too_small_is_refused(prepare, texts):
    with pytest.raises(ConfigError, match=r"model\.vocab_size = 100 .* between 257 and 65536"):
        prepare(path=str(texts), vocab_size=100)
