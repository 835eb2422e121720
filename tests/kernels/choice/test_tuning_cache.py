"""The measured choices on disk: found again for the same work on the same machine, and never believed otherwise."""

import dataclasses
import json
import os

import pytest

from ryot_jax.kernels import Spec, cpu
from ryot_jax.kernels.choice import cache as tuning_cache
from ryot_jax.kernels.choice.cache import Entry, TuningCache, key
from ryot_jax.optimizations import resolve

SPEC = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=64, d_model=32, d_ff=64, vocab_size=100,
    seq_len=16, n_heads=2,
)  # fmt: skip
ENTRY = Entry("xla", "xla 1.9 times reference", {"xla": {"speedup": 1.9}}, {}, "2026-11-24")


@pytest.fixture
def said():
    return []


@pytest.fixture
def cache(tmp_path, said):
    return TuningCache(tmp_path, said.append)


def fresh(cache):
    """The same files, read by another process."""
    return TuningCache(cache._folder.parents[1], cache._log)


def only_file(cache):
    (path,) = cache._folder.iterdir()
    return path


def test_what_is_stored_is_found_again_and_chosen(cache, said, tmp_path):
    assert cache.lookup("attention", SPEC) is None
    cache.store("attention", SPEC, ENTRY)
    for reader in (cache, fresh(cache)):
        assert reader.read("attention", SPEC) == ENTRY
        resolution = resolve({"attention": "auto"}, spec=SPEC, lookup=reader.lookup)
        assert resolution.plan["attention"] == "xla"
        assert resolution.reasons["attention"] == "measured: xla 1.9 times reference, 2026-11-24"
    assert only_file(cache).parent == tmp_path / "kernels" / "v2" and said == []
    stored = json.loads(only_file(cache).read_text(encoding="utf-8"))
    assert stored["trials"] == {"xla": {"speedup": 1.9}} and stored["key"]["work"]["rows"] == 64


@pytest.mark.parametrize("change", [{"rows": 128}, {"activations": "bfloat16"}, {"mlp": "swiglu"}, {"dropout": 0.1}])
def test_other_work_is_another_entry(cache, change):
    cache.store("attention", SPEC, ENTRY)
    assert cache.lookup("attention", dataclasses.replace(SPEC, **change)) is None
    assert cache.lookup("dense", SPEC) is None


def test_the_key_holds_machine_versions_flags_and_source(monkeypatch):
    before = key("attention", SPEC)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=true")
    assert key("attention", SPEC) != before
    monkeypatch.undo()
    monkeypatch.setattr(tuning_cache, "cpu_flags", lambda: frozenset({"sse"}))
    assert key("attention", SPEC) != before
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)), raising=False)
    assert key("attention", SPEC)["machine"]["threads"] == 96
    monkeypatch.undo()
    monkeypatch.setattr(tuning_cache.jaxlib, "__version__", "99.0")
    assert key("attention", SPEC)["jaxlib"] == "99.0"


def test_the_key_holds_the_instruction_sets_that_the_cpp_kernels_take(monkeypatch):
    sets = {"float32": "avx512", "bfloat16": "avx512bf16"}
    monkeypatch.setattr(tuning_cache.cpu, "instruction_set", lambda dtype: sets[dtype])
    free = key("attention", SPEC)
    assert free["machine"]["kernels"] == ["avx512", "avx512bf16"]
    sets["bfloat16"] = ""
    assert key("attention", SPEC) != free, "capped at avx512"


@pytest.mark.skipif(len(cpu.instruction_sets()) < 2, reason="one instruction set: no cap changes it")
def test_what_was_tuned_under_a_cap_is_not_believed_without_it(cache):
    with cpu.capped_at(cpu.instruction_sets()[-1]):
        cache.store("attention", SPEC, ENTRY)
        assert cache.lookup("attention", SPEC) is not None
    assert cache.lookup("attention", SPEC) is None


@pytest.mark.parametrize(
    "name", ["resolution.py", "ops/attention/api.py", "ops/attention/mosaic.py", "cpu/_kernels.so"]
)
def test_changed_source_is_another_key(monkeypatch, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("", encoding="utf-8")
    monkeypatch.setattr(tuning_cache, "_FOLDER", tmp_path)

    def found():
        tuning_cache._source_hash.cache_clear()
        return key("attention", SPEC)["source"]

    try:
        before = found()
        assert found() == before
        (tmp_path / name).write_text("# changed\n", encoding="utf-8")
        assert found() != before
    finally:
        tuning_cache._source_hash.cache_clear()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not used for attention"),
        (lambda text: "", "not used for attention"),
        (lambda text: "[]", "no file of this version"),
        (lambda text: text.replace('"version": 2', '"version": 1'), "no file of this version"),
        (lambda text: text.replace('"rows": 64', '"rows": 65'), "of other work or another machine"),
        (lambda text: text.replace('"winner": "xla"', '"winner": null'), "fields are missing or of another type"),
        (lambda text: text.replace('"winner"', '"loser"'), "fields are missing or of another type"),
    ],
)
def test_a_damaged_or_foreign_file_is_named_and_not_believed(cache, said, damage, reason):
    cache.store("attention", SPEC, ENTRY)
    path = only_file(cache)
    damaged = damage(path.read_text(encoding="utf-8"))
    assert damaged != path.read_text(encoding="utf-8")
    path.write_text(damaged, encoding="utf-8")
    other = fresh(cache)
    assert other.lookup("attention", SPEC) is None
    assert len(said) == 1 and str(path) in said[0] and reason in said[0] and "ryot tune" in said[0]
    assert resolve({"attention": "auto"}, spec=SPEC, lookup=other.lookup).plan["attention"] != "reference"
    other.store("attention", SPEC, ENTRY)
    assert fresh(cache).read("attention", SPEC) == ENTRY


def test_bytes_that_are_no_text_are_damage(cache, said):
    cache.store("attention", SPEC, ENTRY)
    only_file(cache).write_bytes(b"\xff\xfe\x00")
    assert fresh(cache).lookup("attention", SPEC) is None and len(said) == 1


def test_a_folder_that_cannot_be_written_is_said_and_the_choice_holds_here(tmp_path, said):
    (tmp_path / "kernels").write_text("a file where the folder should be", encoding="utf-8")
    cache = TuningCache(tmp_path, said.append)
    assert cache.lookup("attention", SPEC) is None
    cache.store("attention", SPEC, ENTRY)
    assert any("cannot be written" in line and "this process only" in line for line in said)
    assert cache.lookup("attention", SPEC).implementation == "xla"


def test_without_a_folder_it_forgets_with_the_process(said):
    cache = TuningCache(None, said.append)
    cache.store("attention", SPEC, ENTRY)
    assert cache.read("attention", SPEC) == ENTRY and said == []
    assert TuningCache(None, said.append).read("attention", SPEC) is None
