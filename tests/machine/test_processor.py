import platform

import pytest

from ryot_jax.machine import processor


def test_processor_is_described_without_proc(monkeypatch):
    monkeypatch.setattr(processor, "_cpuinfo", dict)
    found = processor.describe_processor.__wrapped__()
    assert found.usable_cores >= 1
    assert found.vector_flags == ()
    assert found.model
    assert processor.cpu_flags.__wrapped__() == frozenset()


def test_flags_are_read_whatever_the_architecture_calls_them(monkeypatch):
    for field in ("flags", "Features"):
        monkeypatch.setattr(processor, "_cpuinfo", lambda field=field: {field: "fma avx2 asimd"})
        assert processor.cpu_flags.__wrapped__() == {"avx2", "fma", "asimd"}
        assert processor.describe_processor.__wrapped__().vector_flags == ("avx2", "fma", "asimd")


@pytest.mark.skipif(platform.system() != "Linux", reason="/proc/cpuinfo is Linux's")
def test_one_reading_serves_flags_and_description():
    found = processor.describe_processor()
    assert set(found.vector_flags) <= processor.cpu_flags()
    assert found.model == processor._cpuinfo().get("model name", found.model)


def test_caches_that_cores_share_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for core in (0, 1, 2):
        for index, (level, kind, size, cores) in enumerate(
            [(1, "Data", "48K", core), (1, "Instruction", "32K", core), (3, "Unified", "32768K", "0-1")]
        ):
            folder = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for field, value in {"level": level, "type": kind, "size": size, "shared_cpu_list": cores}.items():
                (folder / field).write_text(f"{value}\n", encoding="ascii")
    assert processor.data_cache_bytes(tmp_path) == (2 * 48 + 32768) * 1024, "core 2 is not ours"
    assert processor.data_cache_bytes(tmp_path / "elsewhere") is None
