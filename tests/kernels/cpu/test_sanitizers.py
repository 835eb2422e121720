"""The C++ kernels under the sanitizers of the compiler, on every instruction set that this processor has."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ryot_jax.kernels import cpu

KERNELS = Path(cpu.__file__).parent
PROGRAM = Path(__file__).parent / "cpp" / "exercise.cc"


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_no_sanitizer_finds_anything_and_threads_change_no_bit(tmp_path, sanitizers):
    # What -O3 -fno-strict-aliasing is for the package, less the optimization: reports name lines.
    flags = f"-std=c++17 -O1 -g1 -w -fno-strict-aliasing -fno-sanitize-recover=all -pthread -fsanitize={sanitizers}"
    program = tmp_path / "exercise"
    sources = [*map(str, sorted(KERNELS.glob("avx*.cc"))), str(PROGRAM)]
    built = subprocess.run(
        ["g++", *flags.split(), f"-I{KERNELS}", *sources, "-o", str(program)], capture_output=True, text=True
    )
    if "cannot find" in built.stderr:
        pytest.skip(f"this compiler has no runtime for {sanitizers}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout
    assert not done.stdout.startswith("0 instruction sets")
