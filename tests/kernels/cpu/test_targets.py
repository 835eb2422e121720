"""Every target's results beside those of another one, for the same operands: NEON's under an emulator of aarch64."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ryot_jax.kernels import cpu

COMPILER, EMULATOR, LIBRARIES = "aarch64-linux-gnu-g++", "qemu-aarch64", Path("/usr/aarch64-linux-gnu")

pytestmark = [
    pytest.mark.skipif("avx2" not in cpu.instruction_sets(), reason="no C++ kernels for AVX2 to compare with"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]

# Relative, in the 2-norm of an array, for sums of up to 2,301 terms: sums in other orders of float32 (6e-7 seen), which
# bfloat16 may round to the other side (2e-4 seen); and operands rounded to bfloat16 where the other target multiplies
# float32, a few roundings of 2^-9 (9e-3 seen).
FLOAT32, BFLOAT16, ROUNDED = 2e-6, 1e-3, 2e-2


def _results(file: Path) -> dict[tuple[str, int], list[tuple[str, np.ndarray]]]:
    """(target, whether bfloat16) -> (kernel and output, numbers), from the file that the exercise program writes."""
    data, at, results, of_target = file.read_bytes(), 0, {}, None
    while at < len(data):
        end = data.index(b"\n", at)
        *name, number = data[at:end].decode().rsplit(" ", 1)
        at = end + 1
        if name[0].startswith("target "):
            of_target = results.setdefault((name[0].removeprefix("target "), int(number)), [])
            continue
        of_target.append((name[0], np.frombuffer(data, np.float32, int(number), at)))
        at += 4 * int(number)
    return results


@pytest.fixture(scope="module")
def of_this_machine(build, programs, tmp_path_factory):
    program = build.exercise(programs, targets=build.runnable())
    file = tmp_path_factory.mktemp("results") / "here"
    subprocess.run([str(program), str(file)], check=True, capture_output=True, text=True, timeout=300)
    return _results(file)


@pytest.fixture(scope="module")
def of_neon(build, programs, tmp_path_factory):
    if not (shutil.which(COMPILER) and shutil.which(EMULATOR)):
        pytest.skip(f"no {COMPILER} or no {EMULATOR} (Debian: g++-aarch64-linux-gnu and qemu-user)")
    targets = sorted((build.KERNELS / "targets").glob("neon*.cc"))
    program = build.exercise(programs, targets=targets, compiler=COMPILER)
    file = tmp_path_factory.mktemp("results") / "neon"
    command = [EMULATOR, "-cpu", "max", "-L", str(LIBRARIES), str(program), str(file)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    results = _results(file)
    assert len(results) == len(targets)
    return results


def _assert_alike(results, others, tolerance):
    assert len(results) == len(others) > 100
    for (name, numbers), (other_name, expected) in zip(results, others, strict=True):
        assert name == other_name
        np.testing.assert_array_equal(np.isnan(numbers), np.isnan(expected), err_msg=name)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(numbers[~finite], expected[~finite], err_msg=name)
        difference = np.linalg.norm((numbers - expected)[finite].astype(np.float64))
        assert difference <= tolerance * np.linalg.norm(expected[finite].astype(np.float64)) + 1e-12, name


@pytest.mark.parametrize(
    ("target", "tolerance"), [(("neon", 0), FLOAT32), (("neon", 1), BFLOAT16), (("neonbf16", 1), ROUNDED)]
)
def test_neon_computes_what_avx2_does(of_this_machine, of_neon, target, tolerance):
    _assert_alike(of_neon[target], of_this_machine["avx2", target[1]], tolerance)


@pytest.mark.parametrize("name", ("avx512bf16", "amx", *cpu.emulated_instruction_sets()))
def test_products_of_bfloat16_are_those_of_float32_but_for_rounding(of_this_machine, name):
    if (name, 1) not in of_this_machine:
        pytest.skip(f"{name} needs {cpu.missing_instruction_sets().get(name, 'a library with it, and no cap')}")
    _assert_alike(of_this_machine[name, 1], of_this_machine["avx2", 1], ROUNDED)


@pytest.mark.skipif("amx_emulated" not in cpu.emulated_instruction_sets(), reason="built without emulations")
def test_targets_that_round_operands_agree(of_this_machine, of_neon):
    _assert_alike(of_neon["neonbf16", 1], of_this_machine["amx_emulated", 1], BFLOAT16)


@pytest.mark.skipif("amx_emulated" not in cpu.emulated_instruction_sets(), reason="built without emulations")
def test_the_emulation_of_amx_has_amxs_bits(of_this_machine):
    if ("amx", 1) not in of_this_machine:
        pytest.skip("no AMX to compare its emulation with")
    emulated, real = of_this_machine["amx_emulated", 1], of_this_machine["amx", 1]
    # The exponentials around products differ; a dense layer without an activation, the first result, has none.
    np.testing.assert_array_equal(emulated[0][1], real[0][1], err_msg=real[0][0])
    _assert_alike(emulated, real, BFLOAT16)


def test_targets_differ(of_this_machine):
    """The comparisons above are none of a thing with itself."""
    of_float32, of_bfloat16 = of_this_machine["avx2", 0], of_this_machine["avx2", 1]
    assert any(not np.array_equal(a, b, equal_nan=True) for (_, a), (_, b) in zip(of_float32, of_bfloat16, strict=True))
