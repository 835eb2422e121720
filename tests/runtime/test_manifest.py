import getpass
import json
import os
import socket
import subprocess
from pathlib import Path

import jax
import pytest

from ryot_jax.config import get_default, to_json
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.machine.devices import describe_devices
from ryot_jax.machine.processor import describe_processor
from ryot_jax.runtime import manifest


@pytest.fixture
def collected(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS_SECRET", "secret-value")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    return manifest.collect(
        config_json=to_json(get_default()),
        devices=describe_devices(),
        processor=describe_processor(),
        allocator=configure_allocator(enabled=False),
        data_hash="d",
        tokenizer_hash="t",
        end_of_document=0,
        kernel_plans={"baseline": {"dense": "reference"}},
        kernel_reasons={"baseline": {"dense": "off"}},
    )


def test_manifest_tells_what_decides_numbers_and_speed(collected):
    again = json.loads(json.dumps(collected, allow_nan=False))
    assert again["versions"]["jax"] == jax.__version__
    assert again["devices"]["platform"] == jax.default_backend()
    assert again["environment"]["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert again["allocator"]["reason"] == "off by runtime.allocator"
    assert again["kernels"] == {"baseline": {"dense": {"implementation": "reference", "reason": "off"}}}
    assert (again["data_hash"], again["tokenizer_hash"]) == ("d", "t")
    assert len(again["config_hash"]) == 64


def test_manifest_holds_nothing_private(collected):
    text = json.dumps(collected)
    for private in ("secret-value", socket.gethostname(), str(Path.home()) + os.sep, str(Path.cwd())):
        assert private not in text
    user = getpass.getuser()
    assert user not in text or len(user) < 5


def test_git_state_is_that_of_the_source_tree(tmp_path):
    package = tmp_path / "tree" / "package"
    package.mkdir(parents=True)
    assert manifest.git_state(package) == {"revision": None, "dirty": None}

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], cwd=package.parent, check=True, capture_output=True)

    git("init")
    (package / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "a")
    state = manifest.git_state(package)
    assert len(state["revision"]) == 40 and state["dirty"] is False
    (package / "a.py").write_text("2")
    assert manifest.git_state(package)["dirty"] is True
    # A package inside of somebody else's work tree, such as a virtual environment, is not that tree's.
    assert manifest.git_state(package / "nested")["revision"] is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(manifest, "_PACKAGES", ("no-such-package",))
    assert manifest.versions()["no-such-package"] is None
