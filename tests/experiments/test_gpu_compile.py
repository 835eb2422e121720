"""Programs for GPUs are held to ceilings, and one that ends its process is a failure with its last words."""

import json
import sys

import pytest

from experiments import gpu_compile
from experiments.gpu_compile import CEILINGS, GIB, in_a_process, judged
from experiments.lib.gpu_programs import GPUS, PROGRAMS

CEILING = {
    "temp_gib": 2.0,
    "kernels": 100,
    "calls": ["cudnn$fmha"],
    "instructions": ["wgmma"],
    "products": ["bf16 x bf16"],
    "launches": 10,
}
FOUND = {
    "temp_bytes": 2 * GIB,
    "argument_bytes": GIB,
    "kernels": 100,
    "calls": {"__cudnn$fmhaSoftmax": 12},
    "instructions": {"wgmma": 4},
    "products": ["bf16 x bf16"],
    "launches": 10,
}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "PASS"),
        ({"temp_bytes": 2 * GIB + 1}, "FAIL"),
        ({"kernels": 101}, "FAIL"),
        ({"calls": {"__cublas$gemm": 3}}, "FAIL"),
        ({"instructions": {"mma.sync": 4}}, "FAIL"),
        ({"products": ["bf16 x bf16", "f32 x f32"]}, "FAIL"),
        ({"products": ["f32 x f32"]}, "FAIL"),
        ({"launches": 11}, "FAIL"),
        ({"launches": None}, "PASS"),
    ],
)
def test_a_program_keeps_its_ceilings_and_its_calls(change, verdict):
    assert judged("H100", "step", FOUND | change, CEILING).verdict == verdict


def test_launches_are_those_outside_of_graphs(tmp_path):
    assert gpu_compile._launches(tmp_path) is None
    kernels = "    001: kCustomKernel [source] add\n    002: kCustomKernel [source] mul\n"
    step = f"000: kCommandBuffer [source] \n{kernels}003: kCustomCall [source] mosaic\n004: kWhile\n{kernels}"
    (tmp_path / "module_0001.step.thunk_sequence_after_thunk_passes.txt").write_text(step)
    (tmp_path / "module_0002.small.thunk_sequence_after_thunk_passes.txt").write_text("000: kCopy\n")
    (tmp_path / "module_0001.step.thunk_sequence.txt").write_text("000: kCopy\n" * 100)
    assert gpu_compile._launches(tmp_path) == 3


def test_a_failure_is_told():
    found = judged("T4", "step", {"failure": "exit code -6: LLVM ERROR"}, CEILING)
    assert (found.verdict, found.actual) == ("FAIL", "exit code -6: LLVM ERROR")


def test_the_ceilings_are_of_programs_and_gpus_that_there_are():
    ceilings = json.loads(CEILINGS.read_text(encoding="utf-8"))
    assert set(ceilings) == set(GPUS)
    for of_gpu in ceilings.values():
        assert of_gpu and set(of_gpu) <= set(PROGRAMS)
        assert all(
            set(ceiling) <= {"temp_gib", "kernels", "calls", "instructions", "products", "launches"}
            for ceiling in of_gpu.values()
        )


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (
            "import os, sys; print('LLVM ERROR: Cannot select', file=sys.stderr, flush=True); os.abort()",
            "exit code -6: LLVM",
        ),
        ("import time; time.sleep(60)", "not done after 1 s"),
    ],
)
def test_a_process_that_dies_or_hangs_is_a_failure(monkeypatch, script, failure):
    run = gpu_compile.subprocess.run
    monkeypatch.setattr(gpu_compile, "LIMIT_SECONDS", 1)

    def instead(command, **arguments):
        assert command[-2:] == ["H100", "step"]
        return run([sys.executable, "-c", script], **arguments)

    monkeypatch.setattr(gpu_compile.subprocess, "run", instead)
    assert in_a_process("H100", "step")["failure"].startswith(failure)
