import json
import os
from pathlib import Path

import pytest

from ryot_jax.data import text_files
from ryot_jax.runtime.errors import DataError


def names(path: Path | str) -> list[str]:
    return [file.name for file in text_files.find("data.path", str(path))]


def make(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_folder_names_its_files_sorted_without_hidden_ones(tmp_path):
    make(tmp_path, "b.txt", "a/z.txt", "a.txt", ".git/config", "a/.hidden", "a/y.md")
    assert names(tmp_path) == ["a.txt", "a/y.md", "a/z.txt", "b.txt"]


def test_a_glob_names_what_matches_below_its_fixed_part(tmp_path):
    make(tmp_path, "b.txt", "a/z.txt", "a/y.md", ".git/c.txt")
    assert names(tmp_path / "**" / "*.txt") == ["a/z.txt", "b.txt"]
    assert names(tmp_path / "a" / "*") == ["y.md", "z.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    make(tmp_path, "[a].txt", "a.txt")
    assert names(tmp_path / "[a].txt") == ["[a].txt"]


@pytest.mark.parametrize("pattern", ["", "**/*.txt"])
def test_loops_of_links_end(tmp_path, pattern):
    make(tmp_path, "a/b/c.txt")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    (tmp_path / "linked.txt").symlink_to(tmp_path / "a/b/c.txt")
    assert names(tmp_path / pattern) == ["a/b/c.txt", "linked.txt"]


def test_what_is_no_regular_file_is_left_out_of_a_folder(tmp_path):
    make(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")  # reading it would never end
    assert names(tmp_path) == ["a.txt"]
    with pytest.raises(DataError, match="neither a regular file nor a folder"):
        names(tmp_path / "pipe.txt")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", r"data\.path is empty; set it"),
        ("nowhere.txt", r"data\.path = '.*nowhere\.txt' does not exist; check"),
        ("*.none", r"data\.path = '.*\*\.none' names no file"),
    ],
)
def test_a_path_that_names_nothing_is_refused(tmp_path, path, message):
    with pytest.raises(DataError, match=message):
        names(str(tmp_path / path) if path else "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc\n\xe9t\xe9", r"file\.txt: not UTF-8 at byte 4 \(0xe9\); convert it"),
        (b"ab\xe2\x82", r"not UTF-8 at byte 2 \(0xe2\)"),
        (b"abc\0def", r"file\.txt: binary, not text \(NUL byte at byte 3\); leave it out"),
        ("abc".encode("utf-16"), r"UTF-16 .* iconv"),
        (b"\x1f\x8b\x08\x00abc", r"gzip; unpack it"),
    ],
)
def test_what_is_not_utf8_text_is_refused_with_the_byte(tmp_path, data, message):
    file = tmp_path / "file.txt"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message):
        text_files.read_text(file)


def test_byte_order_mark_and_line_ends_are_normalized(tmp_path):
    file = tmp_path / "file.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\r\n")
    assert text_files.read_text(file) == "one\ntwo\nthree\n\n"


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        text_files.read_text(tmp_path / "gone.txt")


def test_jsonl_gives_line_numbers_and_texts_and_skips_blank_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a\\r\\nb"}\r\n\n  \n{"other": 1, "text": "\xc3\xa9"}')
    assert list(text_files.read_jsonl(file, "text")) == [(1, "a\nb"), (4, "\u00e9")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', r"line 2, byte 16: not JSON .* one JSON object"),
        (b'["x"]', r"line 2, byte 16: a JSON list"),
        (b'{"body": "x"}', r"line 2, byte 16: no field 'text' \(fields: 'body'\); set data\.field"),
        (b'{"text": 3}', r"line 2, byte 16: field 'text' holds a int"),
        (
            b'{"text": "\\ud800"}',
            r"line 2, byte 16: field 'text' has half of a surrogate pair at character 0",
        ),
        (b'{"text": "\xff"}', r"not UTF-8 at byte 26 \(0xff\)"),
    ],
)
def test_a_bad_jsonl_line_is_refused_with_its_place(tmp_path, line, message):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "\xc3\xa9b"}\n' + line + b"\n")  # 15 characters, 16 bytes
    with pytest.raises(DataError, match=message):
        list(text_files.read_jsonl(file, "text"))


def test_a_jsonl_line_separator_inside_of_a_string_is_no_line_end(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\n", "utf-8")
    assert [text for _, text in text_files.read_jsonl(file, "text")] == ["a\u2028b"]
