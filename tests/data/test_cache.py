import json
from pathlib import Path

import pytest

from ryot_jax.data import cache as caches
from ryot_jax.runtime.errors import DataError


@pytest.fixture
def cache(tmp_path):
    return caches.root(str(tmp_path / "cache"))


def fill(cache: Path, key: str, content: bytes = b"\1\0\2\0") -> Path:
    with caches.new_folder(cache, key) as folder:
        (folder / "train.bin").write_bytes(content)
        files = {"train.bin": {"bytes": len(content), "sha256": caches.hash_file(folder / "train.bin")}}
        (folder / "meta.json").write_text(json.dumps({"version": caches.VERSION, "files": files}))
    return caches.folder_of(cache, key)


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "corpora").iterdir())


def test_the_default_folder_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.root("") == tmp_path / "xdg/ryot_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # not allowed by its specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert caches.root("") == tmp_path / "home/.cache/ryot_jax"


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"the cache at .*file/cache cannot be written .* data\.cache_dir"):
        caches.root(str(tmp_path / "file/cache"))


def test_what_was_written_is_read_back(cache):
    folder = fill(cache, "key")
    assert caches.read_meta(folder)["files"]["train.bin"]["bytes"] == 4
    assert left_over(cache) == ["key"]


def test_nothing_is_no_damage(cache):
    assert caches.read_meta(caches.folder_of(cache, "none")) is None
    assert caches.read_index(cache, "none") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train.bin").write_bytes(b"\1\0"), "train.bin has 2 bytes, not 4"),
        (lambda folder: (folder / "train.bin").write_bytes(b"\1\0\3\0"), "bytes of train.bin have changed"),
        (lambda folder: (folder / "train.bin").unlink(), "train.bin: No such file"),
        (lambda folder: (folder / "meta.json").unlink(), "meta.json: No such file"),
        (lambda folder: (folder / "meta.json").write_text("{"), "meta.json is not what was written"),
        (lambda folder: (folder / "meta.json").write_text("[]"), "meta.json is not what was written"),
        (lambda folder: (folder / "meta.json").write_text('{"version": 0}'), "meta.json is of version 0"),
    ],
)
def test_damage_is_seen(cache, damage, message):
    folder = fill(cache, "key")
    damage(folder)
    with pytest.raises(caches.Damaged, match=message):
        caches.read_meta(folder)


def test_a_large_file_is_checked_by_its_size_only(cache, monkeypatch):
    folder = fill(cache, "key")
    (folder / "train.bin").write_bytes(b"\1\0\3\0")
    monkeypatch.setattr(caches, "_ALWAYS_HASHED", 3)
    assert caches.read_meta(folder)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_writer_leaves_nothing(cache, error):
    with pytest.raises(error), caches.new_folder(cache, "key") as folder:
        (folder / "train.bin").write_bytes(b"half")
        raise error
    assert left_over(cache) == []


def test_of_two_writers_the_first_stays_and_the_second_leaves_nothing(cache):
    with caches.new_folder(cache, "key") as second:
        (second / "train.bin").write_bytes(b"second")
        fill(cache, "key", b"first!")
    assert (caches.folder_of(cache, "key") / "train.bin").read_bytes() == b"first!"
    assert left_over(cache) == ["key"]


def test_a_full_disk_is_a_data_error(cache):
    with (
        pytest.raises(DataError, match=r"cannot be written \(No space left"),
        caches.new_folder(cache, "key"),
    ):
        raise OSError(28, "No space left on device")
    assert left_over(cache) == []


def test_a_discarded_corpus_is_gone(cache):
    fill(cache, "key")
    caches.discard(cache, "key")
    caches.discard(cache, "key")
    assert left_over(cache) == []


def test_the_index_keeps_the_last_entry_and_survives_damage(cache):
    caches.write_index(cache, "finger", {"corpus": "a"})
    caches.write_index(cache, "finger", {"corpus": "b"})
    assert caches.read_index(cache, "finger") == {"corpus": "b"}
    for damaged in ("{", "[]", "\0"):
        (cache / "index/finger.json").write_text(damaged)
        assert caches.read_index(cache, "finger") is None


def test_keys_tell_values_apart_and_not_their_order(monkeypatch):
    key = caches.key_of({"a": 1, "b": 2})
    assert key == caches.key_of({"b": 2, "a": 1})
    assert key != caches.key_of({"a": 1, "b": 3})
    monkeypatch.setattr(caches, "VERSION", caches.VERSION + 1)
    assert key != caches.key_of({"a": 1, "b": 2})
