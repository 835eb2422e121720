import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import RunDirectory, create_run
from ryot_jax.runtime.run_lock import locked

HOLD = """
import sys, time
from pathlib import Path
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.runtime.run_lock import locked
with locked(RunDirectory(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return create_run(tmp_path, "a")


@pytest.fixture
def holder(run):
    """Another process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_told_who_has_the_run(run, holder):
    with pytest.raises(ConfigError) as caught, locked(run):
        pytest.fail("two processes have the run")
    assert f"process {holder.pid} on host {socket.gethostname()}" in str(caught.value)


def test_a_killed_process_leaves_no_lock_but_a_notice(run, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(run) as notice:
        assert notice == f"process {holder.pid} on host {socket.gethostname()} left the run without giving it back"


def test_a_run_that_was_given_back_is_free(run):
    for _ in range(2):
        with locked(run) as notice:
            assert notice is None
            assert json.loads(run.lock.read_text())["pid"] == os.getpid()
    assert run.lock.read_text() == ""


def test_an_error_inside_gives_the_run_back(run):
    with pytest.raises(ZeroDivisionError), locked(run):
        raise ZeroDivisionError
    with locked(run) as notice:
        assert notice is None


def test_a_lock_of_another_host_is_not_taken(run):
    text = json.dumps({"pid": 1, "host": "elsewhere"})
    run.lock.write_text(text)
    with pytest.raises(ConfigError, match=r"process 1 on host elsewhere.*delete .*run\.lock"), locked(run):
        pass
    assert run.lock.read_text() == text


def test_a_damaged_lock_file_does_not_matter(run):
    run.lock.write_text("{")
    with locked(run) as notice:
        assert notice is None
