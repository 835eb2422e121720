import hashlib
import json
import os
import sysconfig
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryot_jax.data import documents
from ryot_jax.runtime.errors import ConfigError, DataError


def read(config) -> tuple[list[str], list[str], Counter]:
    """Texts for training, held-out texts, and what was left out."""
    tally = Counter()
    found = list(documents.open_source(config).read(tally))
    return [d.text for d in found if not d.heldout], [d.text for d in found if d.heldout], tally


def heldout_by_rule(name: str, fraction: float) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32 < fraction


def test_stdlib_takes_the_librarys_own_modules_and_splits_them_by_path(data_config, tmp_path, monkeypatch):
    taken = [f"package/module_{n}.py" for n in range(30)] + ["top.py", "asyncio/testing.py"]
    left = [
        "test/test_x.py",
        "package/tests/a.py",
        "idlelib/b.py",
        "lib2to3/tests/c.py",
        "site-packages/d.py",
        "__pycache__/e.py",
        "idle_test/f.py",
        "pydoc_data/topics.py",
        "README.txt",
    ]
    for name in taken + left:
        (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / name).write_text(f"# {name}")
    (tmp_path / "lib/latin.py").write_bytes(b"# \xe9")
    (tmp_path / "lib/empty.py").write_bytes(b"")
    (tmp_path / "lib/zz_copy.py").write_text("# top.py")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "lib"))

    train, heldout, tally = read(data_config(source="stdlib", heldout_fraction=0.3))

    assert heldout == [f"# {name}" for name in sorted(taken) if heldout_by_rule(name, 0.3)]
    assert train == [f"# {name}" for name in sorted(taken) if not heldout_by_rule(name, 0.3)]
    assert heldout
    assert tally == {"unreadable": 1, "empty": 1, "duplicates": 1}


def test_this_pythons_library_is_found(data_config):
    train, heldout, _ = read(data_config(source="stdlib"))
    assert len(train) > 300
    assert len(heldout) > 30
    assert not set(train) & set(heldout)


def test_a_python_without_library_source_is_refused(data_config, tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "python.zip"))
    with pytest.raises(DataError, match=r"no \.py files .* data\.source = 'text'"):
        documents.open_source(data_config(source="stdlib"))


def test_files_are_split_by_their_name_below_the_folder(data_config, texts):
    train, heldout, _ = read(data_config(path=str(texts), heldout_fraction=0.25))
    wanted = [f.read_text() for f in sorted(texts.iterdir()) if heldout_by_rule(f.name, 0.25)]
    assert heldout == wanted
    assert len(train) + len(heldout) == 40
    assert train
    assert heldout


def test_the_split_does_not_depend_on_where_the_folder_is(data_config, texts, tmp_path):
    before = read(data_config(path=str(texts)))
    moved = texts.rename(tmp_path / "elsewhere")
    assert read(data_config(path=str(moved))) == before


def test_jsonl_records_are_split_by_their_text_so_that_order_does_not_matter(data_config, tmp_path):
    lines = [json.dumps({"body": f"record {n}"}) for n in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.jsonl").write_text("\n".join(reversed(lines)))
    train_a, heldout_a, _ = read(data_config(path=str(tmp_path / "a.jsonl"), field="body"))
    train_b, heldout_b, _ = read(data_config(path=str(tmp_path / "b.jsonl"), field="body"))
    assert heldout_a == [f"record {n}" for n in range(60) if heldout_by_rule(f"record {n}", 0.1)]
    assert (sorted(train_a), sorted(heldout_a)) == (sorted(train_b), sorted(heldout_b))
    assert heldout_a


def test_of_one_text_file_the_last_lines_are_held_out(data_config, tmp_path):
    lines = [f"line {n}\n" for n in range(100)]
    (tmp_path / "one.txt").write_text("".join(lines))
    (train,), (heldout,), _ = read(data_config(path=str(tmp_path / "one.txt"), heldout_fraction=0.2))
    assert train + heldout == "".join(lines)
    assert heldout.startswith("line ")
    assert 18 <= heldout.count("\n") <= 20


@given(
    text=st.text("ab\n", min_size=2, max_size=40),
    fraction=st.floats(0.05, 0.95),
)
def test_a_split_loses_nothing_and_cuts_at_a_line_start_where_there_is_one(text, fraction):
    first, last = documents.split_text(text, fraction)
    assert first + last == text
    if "\n" in text[:-1] and first and last:
        starts = [n + 1 for n, letter in enumerate(text[:-1]) if letter == "\n"]
        cut = int(len(text) * (1 - fraction))
        assert len(first) in starts or not any(start <= cut for start in starts)


def test_held_out_text_given_is_the_held_out_part_and_never_trained_on(data_config, tmp_path):
    (tmp_path / "train").mkdir()
    for n in range(5):
        (tmp_path / f"train/{n}.txt").write_text(f"text {n}")
    (tmp_path / "held.txt").write_text("text 3")
    train, heldout, tally = read(data_config(path=str(tmp_path / "train"), heldout_path=str(tmp_path / "held.txt")))
    assert heldout == ["text 3"]
    assert train == ["text 0", "text 1", "text 2", "text 4"]
    assert tally == {"duplicates": 1}


def test_max_documents_keeps_the_first(data_config, texts):
    train, heldout, _ = read(data_config(path=str(texts), max_documents=7))
    assert sorted(train + heldout) == [f.read_text() for f in sorted(texts.iterdir())[:7]]


def test_identity_changes_with_the_files_and_with_what_is_read_of_them(data_config, texts):
    def identity(**fields):
        return json.dumps(documents.open_source(data_config(path=str(texts), **fields)).identity)

    first = identity()
    assert identity() == first
    assert identity(heldout_fraction=0.2) != first
    assert identity(max_documents=3) != first
    assert identity(heldout_path=str(texts / "file_00.txt")) != first
    data, changed = (texts / "file_01.txt").read_bytes(), (texts / "file_01.txt").stat().st_mtime_ns
    (texts / "file_01.txt").write_bytes(data[::-1])  # of the same size
    os.utime(texts / "file_01.txt", ns=(changed, changed + 1))
    assert identity() != first


def test_an_unknown_source_is_refused(data_config):
    with pytest.raises(ConfigError, match=r"data\.source = 'stdlibs' must be one of"):
        documents.open_source(data_config(source="stdlibs"))
