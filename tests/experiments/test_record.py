import pytest

from experiments.lib import record
from experiments.lib.record import Table, at_least, at_most, not_measured
from ryot_jax.comparison.statistics import SpeedUp, speed_up


def ratio(low, high):
    return SpeedUp((low * high) ** 0.5, (low, high), 8, None, None, None)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((2.8, 3.0), "PASS"), ((2.7, 2.79), "FAIL"), ((2.79, 2.81), "INCONCLUSIVE")],
)
def test_the_whole_interval_has_to_reach_the_goal(interval, verdict):
    assert at_least("x", ratio(*interval), 2.8).verdict == verdict


def test_without_an_interval_nothing_is_decided():
    assert at_least("x", speed_up([1.0, 1.0], [0.5, 0.5]), 1.5).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("criteria", "code", "word"),
    [
        ([], 0, "measured"),
        ([at_most("a", 0.3, 1 / 3)], 0, "PASS"),
        ([at_most("a", 0.3, 1 / 3), not_measured("b", "at least 2", "no torch")], 4, "INCONCLUSIVE"),
        ([at_most("a", 0.4, 1 / 3), not_measured("b", "at least 2", "no torch")], 3, "FAIL"),
    ],
)
def test_the_exit_code_is_the_verdict(criteria, code, word, capsys):
    assert record.conclude("x", "Title", command="run", tables=[], criteria=criteria) == code
    assert word in capsys.readouterr().out


def test_others_at_work_are_told_of(monkeypatch):
    # user, nice, system, idle, iowait, irq, softirq, steal, guest (counted in user)
    ticks = iter(["cpu 10 0 0 100 0 0 0 0 9\ncpu0 1", "cpu 60 0 0 140 10 0 0 0 59\ncpu0 1"])
    monkeypatch.setattr(record.Path, "read_text", lambda *_, **__: next(ticks))
    told = record.others_at_work(seconds=0.0)
    assert "50% of the machine" in told and "do not trust" in told


def test_the_record_has_command_machine_versions_tables_and_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    table = Table("step", ("arm", "ms"), [("base|line", "12.5"), ("optimized", "4")])
    criteria = [at_most("memory", 0.2, 1 / 3)]
    record.conclude("x", "Title", command="python -m x", tables=[table], criteria=criteria, write=True)
    text = (tmp_path / "results" / "x.md").read_text(encoding="utf-8")
    for part in ("# Title: PASS", "`python -m x`", "jax 0.", "revision ", "| base\\|line | 12.5 |", "| memory |"):
        assert part in text
    printed = capsys.readouterr().out
    assert "base|line  12.5\noptimized     4" in printed
    assert printed.isascii()


def test_what_was_told_as_it_came_is_written_and_not_told_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    table, criteria = Table("step", ("arm", "ms"), [("baseline", "12.5")]), [at_most("memory", 0.2, 1 / 3)]
    words = {"command": "x", "tables": [table], "criteria": criteria, "notes": ["A note."], "write": True}
    record.conclude("x", "Title", told=True, **words)
    text, printed = (tmp_path / "x.md").read_text(encoding="utf-8"), capsys.readouterr().out
    for part in ("| baseline | 12.5 |", "A note."):
        assert part in text and part not in printed and "12.5" not in printed
    assert "memory" in printed and "PASS: Title" in printed
