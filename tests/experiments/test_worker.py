import sys
import textwrap

import pytest

from experiments.peers.worker import Worker, WorkerError

PROGRAM = """
    import os
    from experiments.peers.worker import answers, serve

    answer = answers()
    print("a library's chatter")
    os.write(1, b"from C, too\\n")
    {body}
"""
SERVE = "serve(answer, lambda n: 1.0 / n, parameters=3, initial_loss=7.5, versions={'x': '1'}, notes='n')"


def start(tmp_path, body, **environment):
    code = textwrap.dedent(PROGRAM).format(body=body)
    return Worker([sys.executable, "-c", code], tmp_path / "log", environment)


def test_blocks_run_on_demand_and_chatter_goes_to_the_log(tmp_path):
    with start(tmp_path, SERVE) as worker:
        assert (worker.ready.parameters, worker.ready.initial_loss) == (3, 7.5)
        answer = worker.run_block(4)
        assert answer.loss == 0.25
        assert answer.seconds > 0 and answer.peak_resident_bytes > 0
        assert worker.run_block(2).loss == 0.5
    assert (tmp_path / "log").read_text(encoding="utf-8").count("\n") == 2


def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(WorkerError, match="no such thing"):
        start(tmp_path, "raise SystemExit('no such thing')")
    with (
        start(tmp_path, SERVE.replace("1.0 / n", "1.0 / 0")) as worker,
        pytest.raises(WorkerError, match="ZeroDivisionError"),
    ):
        worker.run_block(1)


def test_settings_of_the_callers_shell_do_not_reach_the_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    notes = "os.environ.get('GLIBC_TUNABLES', 'none') + os.environ['MALLOC_CONF']"
    with start(tmp_path, SERVE.replace("'n'", notes), MALLOC_CONF="mine") as worker:
        assert worker.ready.notes == "nonemine"
