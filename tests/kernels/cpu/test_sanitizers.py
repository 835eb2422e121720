"""The C++ kernels under the sanitizers of the compiler, for every target that this processor runs."""

import shutil
import subprocess

import pytest

from ryot_jax.kernels import cpu

LEAST = next(reversed(cpu.instruction_sets("float32")), "")

pytestmark = [
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_no_sanitizer_finds_anything_and_threads_change_no_bit(build, programs, sanitizers):
    try:
        flags = ("-fno-sanitize-recover=all", f"-fsanitize={sanitizers}")
        # Threads are the same code in all targets: one tells, which the other sanitizer sees with bfloat16 arrays.
        targets = [path for path in build.runnable() if (path.stem == LEAST) == (sanitizers == "thread")]
        program = build.exercise(programs, *flags, targets=targets)
    except subprocess.CalledProcessError as error:
        if "cannot find" in error.stderr:
            pytest.skip(f"this compiler has no runtime for {sanitizers}")
        raise AssertionError(error.stderr) from error
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    *run, last = done.stdout.split("\n")[:-1]
    assert last == "0 failures"
    # Of the library's own list, whatever it holds.
    assert set(run) == (
        {LEAST} if sanitizers == "thread" else {*cpu.instruction_sets(), *cpu.emulated_instruction_sets()}
    )
