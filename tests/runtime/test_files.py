import pytest

from ryot_jax.runtime.files import whole_folder, write_json, write_text


def test_text_is_utf8_and_keeps_its_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "é\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\r\n\n"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_json_keys_are_sorted(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text().index('"a"') < (tmp_path / "a.json").read_text().index('"b"')


def test_a_folder_is_there_when_all_its_files_are(tmp_path):
    for path in (tmp_path / "new" / "a", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with whole_folder(path) as folder:
            write_text(folder / "a.txt", "a")
            assert not (path / "a.txt").exists()
        assert [file.name for file in path.iterdir()] == ["a.txt"]
        assert (path.stat().st_mode & 0o777, (path / "a.txt").stat().st_mode & 0o777) == (0o755, 0o644)
        assert [other.name for other in path.parent.iterdir() if other.name.startswith(".")] == []


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "a") as folder:
        write_text(folder / "a.txt", "a")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_already_stays(tmp_path, kind):
    path = tmp_path / "a"
    mine = path / "mine.txt" if kind == "folder" else path
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(OSError, match=r"not empty|Not a directory"), whole_folder(path) as folder:
        write_text(folder / "a.txt", "a")
    assert mine.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
