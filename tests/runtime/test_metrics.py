import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.runtime.errors import CheckpointError, ConfigError
from ryot_jax.runtime.metrics import MetricsWriter, drop_rows_after, read_rows


def write_steps(path, arm, steps, **options):
    with MetricsWriter(path, **options) as writer:
        for step in steps:
            writer.write(arm, step, loss=1.0 / step)


def steps_of(path, arm):
    return [row["step"] for row in read_rows(path) if row["arm"] == arm]


def test_a_row_is_on_disk_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write("baseline", 1, loss=0.5, note="first", heldout=None)
        assert path.read_text() == '{"arm": "baseline", "step": 1, "loss": 0.5, "note": "first", "heldout": null}\n'


def test_array_scalars_are_numbers_and_non_finite_ones_null(tmp_path):
    with MetricsWriter(tmp_path / "m") as writer:
        writer.write("a", np.int64(3), x=np.float32(0.5), y=jnp.float32(2), z=float("nan"), w=np.float64("inf"))
    assert read_rows(tmp_path / "m") == [{"arm": "a", "step": 3, "x": 0.5, "y": 2.0, "z": None, "w": None}]


def test_a_resumed_run_writes_no_row_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, "baseline", range(1, 6))
    write_steps(path, "optimized", range(1, 8))
    write_steps(path, "baseline", range(4, 9), resume_steps={"baseline": 3, "optimized": 5})
    assert steps_of(path, "baseline") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps_of(path, "optimized") == [1, 2, 3, 4, 5]


def test_an_arm_that_starts_anew_loses_its_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, "baseline", range(1, 4))
    assert drop_rows_after(path, {}) == 3
    assert read_rows(path) == []


def test_a_last_line_cut_short_is_dropped_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, "baseline", [1, 2])
    with path.open("a") as file:
        file.write('{"arm": "baseline", "st')
    assert steps_of(path, "baseline") == [1, 2]
    write_steps(path, "baseline", [3], resume_steps={"baseline": 2})
    assert steps_of(path, "baseline") == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_an_error_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"arm": "a", "step": 1}\n{"ar\n{"arm": "a", "step": 2}\n')
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl:2"):
        drop_rows_after(path, {"a": 1})
    assert path.read_bytes() == before


def test_resuming_without_a_file_is_a_fresh_start(tmp_path):
    write_steps(tmp_path / "m", "a", [1], resume_steps={"a": 0})
    assert steps_of(tmp_path / "m", "a") == [1]


def test_tensorboard_gets_the_numbers_of_each_arm(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    with MetricsWriter(tmp_path / "m", tensorboard=tmp_path / "tb") as writer:
        writer.write("baseline", 7, loss=0.5, note="text")
        writer.write("optimized", 7, loss=0.25)
    found = {}
    for arm in ("baseline", "optimized"):
        (file,) = (tmp_path / "tb" / arm).iterdir()
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found[arm, value.tag, event.step] = value.simple_value
    assert found == {("baseline", "loss", 7): 0.5, ("optimized", "loss", 7): 0.25}


def test_tensorboard_that_is_not_installed_is_told_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"pip install 'ryot_jax\[tensorboard\]'"):
        MetricsWriter(tmp_path / "m", tensorboard=tmp_path / "tb")


def test_each_line_is_json(tmp_path):
    write_steps(tmp_path / "m", "a", range(1, 4))
    assert all(json.loads(line) for line in (tmp_path / "m").read_text().splitlines())
