import datetime

import pytest

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import create_run, find_run

NOON = datetime.datetime(2026, 5, 4, 14, 0, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


def finished(workdir, name, second=0):
    run = create_run(workdir, name, NOON + datetime.timedelta(seconds=second))
    run.config.write_text("{}")
    return run


def test_a_run_is_named_by_utc_and_its_name(tmp_path):
    run = create_run(tmp_path / "new" / "runs", "scaled", NOON)
    assert run.path == tmp_path / "new" / "runs" / "20260504T120001Z-scaled"
    assert run.path.is_dir()


def test_runs_of_one_second_do_not_share_a_folder(tmp_path):
    runs = [create_run(tmp_path, "a", NOON) for _ in range(12)]
    assert len({run.path for run in runs}) == 12
    assert runs[1].path.name == "20260504T120001Z-a-2"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 65, "na\u00efve", "a\n"])
def test_names_that_are_no_safe_path_part_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="name = "):
        create_run(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"--workdir=.*file"):
            create_run(workdir, "a")


def test_latest_is_the_newest_and_not_the_alphabetically_last(tmp_path):
    finished(tmp_path, "z", second=0)
    newest = [finished(tmp_path, "a", second=1) for _ in range(11)][-1]
    (tmp_path / "99990101T000000Z-not-a-run").mkdir()
    assert find_run(tmp_path, "latest") == newest


def test_a_run_is_found_by_path_and_by_name(tmp_path, monkeypatch):
    run = finished(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    assert find_run(tmp_path / "elsewhere", str(run.path)) == run
    assert find_run(tmp_path / "elsewhere", run.path.name) == run
    monkeypatch.chdir("/")
    assert find_run(tmp_path, run.path.name) == run


def test_latest_is_no_ablation(tmp_path):
    trained = tmp_path / "20260504T120000Z-a"
    for path in (trained, tmp_path / "20260504T120001Z-a-ablate", tmp_path / "20260504T120001Z-a-ablate-2"):
        path.mkdir()
        (path / "config.json").write_text("{}", encoding="utf-8")
    assert find_run(tmp_path, "latest").path == trained
    assert find_run(tmp_path, "20260504T120001Z-a-ablate").path.name.endswith("-ablate")


def test_an_imported_checkpoint_is_no_run_of_training(tmp_path):
    trained, imported = finished(tmp_path, "a"), finished(tmp_path, "b", second=1)
    imported.imported.write_text("{}", encoding="utf-8")
    assert find_run(tmp_path, "latest") == imported
    assert find_run(tmp_path, "latest", trained=True) == trained
    assert find_run(tmp_path, imported.path.name) == imported
    with pytest.raises(ConfigError, match=r"b is an imported checkpoint: .* name a run that was trained"):
        find_run(tmp_path, imported.path.name, trained=True)


@pytest.mark.parametrize("wanted", ["latest", "", "20260504T120001Z-a"])
def test_a_run_that_is_not_there_is_named(tmp_path, wanted):
    with pytest.raises(ConfigError, match="run directory"):
        find_run(tmp_path, wanted)
