"""`hf:NAME` on local data through the real `datasets` package, which the `test` extra brings; no network."""

import json
import sys

import datasets  # noqa: F401  (a missing package has to fail here, not to skip the tests)
import pytest

from ryot_jax.data import huggingface
from ryot_jax.runtime.errors import DataError

ROWS = [f"row {n} tells of {n * 7}\n" * 3 for n in range(80)]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No lookups on the Hub, and the package's own cache in the test's folder."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"body": row, "n": 1}) + "\n" for row in ROWS))
    return folder


@pytest.fixture
def hf(prepare, folder):
    return lambda name=str(folder), **fields: prepare(source=f"hf:{name}", field="body", **fields)


def both_parts(corpus) -> str:
    return corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.heldout)


def test_a_folder_is_streamed_and_split_by_text(hf):
    corpus = hf()
    assert corpus.description["train"]["documents"] + corpus.description["heldout"]["documents"] == 80
    text = both_parts(corpus)
    assert all(row in text for row in ROWS)


def test_a_format_with_files_is_the_same_as_the_folder_or_the_text_source(hf, prepare, folder):
    file = str(folder / "train.jsonl")
    by_format = hf("json", path=file)
    assert by_format.data_hash == hf().data_hash
    assert by_format.data_hash == prepare(source="text", path=file, field="body").data_hash


def test_the_first_rows_are_kept(hf):
    text = both_parts(hf(max_documents=20, heldout_fraction=0.3))
    assert all(row in text for row in ROWS[:20])
    assert ROWS[20] not in text


def test_rows_are_read_once_and_a_second_start_does_not_need_the_package(hf, tmp_path, monkeypatch):
    load, calls = huggingface._load_dataset, []
    monkeypatch.setattr(huggingface, "_load_dataset", lambda: calls.append(1) or load())
    first = hf()
    assert calls == [1]
    monkeypatch.setitem(sys.modules, "datasets", None)
    second = hf()
    assert (second.description["cache"], second.data_hash) == ("hit", first.data_hash)
    assert len(list((tmp_path / "cache/corpora").iterdir())) == 1


def test_a_changed_file_is_read_again(hf, folder):
    first = hf()
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"body": "one row more"}) + "\n")
    assert hf().data_hash != first.data_hash


def test_without_the_package_the_extra_is_named(hf, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"extra `datasets`: pip install 'ryot_jax\[datasets\]'"):
        hf()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hf_split": "tests"}, r"hf_split = 'tests'\) cannot be loaded: ValueError: Bad split"),
        ({"name": "nobody/nothing"}, r"'hf:nobody/nothing' .* cannot be loaded: .* check the name"),
        ({"name": "json", "path": "nowhere.jsonl"}, r"data\.path = 'nowhere\.jsonl' does not exist"),
    ],
)
def test_a_dataset_that_cannot_be_loaded_is_refused(hf, fields, message):
    with pytest.raises(DataError, match=message):
        hf(**fields)


def test_a_row_without_text_is_refused_with_its_number(hf, prepare, folder):
    with pytest.raises(DataError, match=r"row 0: no field 'text' \(fields: 'body', 'n'\); set data\.field"):
        prepare(source=f"hf:{folder}", field="text")
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"body": None, "n": 1}) + "\n")
    with pytest.raises(DataError, match=r"row 80: field 'body' holds a NoneType"):
        hf()


def test_a_damaged_file_is_refused(hf, folder):
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"body": \n')
    with pytest.raises(DataError, match=r"reading stopped at row \d+: .* check the data there"):
        hf()
