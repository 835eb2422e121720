"""A session: made in one place, with kernels that are measured, by static order, or those of the run before."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

import ryot_jax
from ryot_jax.config import get_default
from ryot_jax.kernels.choice.cache import Entry
from ryot_jax.runs import session as session_module
from ryot_jax.runs.session import kernels_of, open_session
from ryot_jax.runtime.errors import CheckpointError, ConfigError


@pytest.fixture
def config(tmp_path):
    config = get_default()
    config.data.cache_dir = str(tmp_path)
    return config


def manifest(path, **kernels):
    arms = {"optimized": {op: {"implementation": name, "reason": "r"} for op, name in kernels.items()}}
    path.write_text(json.dumps({"kernels": arms}), encoding="utf-8")
    return path


def test_auto_takes_the_measured_kernels_and_the_static_order_where_it_is_asked_for(config):
    session = open_session(config, print, cached_programs=False)
    static = session.resolve_unmeasured()
    assert session.resolve().plan == static.plan, "nothing is measured yet"
    assert static.plan["norm"] != "reference"
    spec = dataclasses.replace(session.spec, activations=static.plan["activations"])
    session.tuning_cache.store("norm", spec, Entry("reference", "for a test"))
    assert session.resolve().plan["norm"] == "reference" and "for a test" in session.resolve().reasons["norm"]
    assert session.resolve_unmeasured().plan == static.plan
    assert (
        session.resolve(norm="off").plan["norm"] == session.resolve_unmeasured(norm="off").plan["norm"] == "reference"
    )


def test_a_resumed_run_has_the_kernels_of_its_manifest(config, tmp_path):
    path = manifest(tmp_path / "manifest.json", norm="reference", dispatch="scan")
    session = open_session(config, print, cached_programs=False, manifest=path)
    (baseline, optimized), resolutions = session.variants
    assert (baseline.name, optimized.name) == ("baseline", "optimized")
    assert (optimized.plan["norm"], optimized.plan["dispatch"]) == ("reference", "scan")
    assert resolutions["optimized"].reasons["norm"] == "as before the interruption"
    assert optimized.plan["attention"] == baseline.plan["attention"], "what the manifest does not name was off"
    chosen_anew = open_session(config, print, cached_programs=False, manifest=tmp_path / "none.json")
    assert chosen_anew.kernels_before is None


@pytest.mark.parametrize("text", ["{", "[]", '{"kernels": 3}', '{"kernels": {"optimized": {"norm": {}}}}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        kernels_of(path)


def test_only_who_trains_needs_devices_that_can_share_a_batch(config, monkeypatch):
    devices = dataclasses.replace(session_module.describe_devices(), local_count=3)
    monkeypatch.setattr(session_module, "describe_devices", lambda: devices)
    assert open_session(config, print, cached_programs=False).devices.local_count == 3
    with pytest.raises(ConfigError, match="cannot be divided over 3 devices"):
        open_session(config, print, cached_programs=False, trains=True)


def test_a_cache_that_cannot_be_is_told_once_and_forgets(config, tmp_path):
    (tmp_path / "file").touch()
    config.data.cache_dir = str(tmp_path / "file" / "cache")
    lines = []
    session = open_session(config, lines.append, cached_programs=False)
    assert session.resolve().plan == session.resolve().plan == session.resolve_unmeasured().plan
    assert len(lines) <= 1


def test_nothing_else_makes_what_a_session_is_made_of():
    package = Path(ryot_jax.__file__).parent
    own = re.compile(r"\b(enable_compilation_cache|TuningCache|kernel_spec|from_config)\(")
    makers = {
        str(path.relative_to(package))
        for room in ("runs", "commands", "cli")
        for path in (package / room).rglob("*.py")
        if own.search(path.read_text(encoding="utf-8"))
    }
    assert makers == {"runs/session.py"}
