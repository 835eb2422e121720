"""`ryot doctor`: what it prints, and that it needs nothing of training a run."""

import pytest

from ryot_jax.kernels import cpu


def test_it_describes_the_machine_without_the_stages_of_a_run(run_python):
    done = run_python(
        "import sys\n"
        "from ryot_jax.main import main\n"
        "from ryot_jax.runtime.console import Console\n"
        "assert main(['doctor'], Console()) == 0\n"
        "stages = ['ryot_jax.report', 'ryot_jax.runs.training_pair', 'ryot_jax.runs.compiled_arms', "
        "'ryot_jax.runs.compression', 'ryot_jax.runs.stage', 'ryot_jax.decoding', 'matplotlib']\n"
        "found = [name for name in stages if name in sys.modules]\n"
        "assert not found, found\n"
    )
    lines = done.stdout.splitlines()
    rates = ("rates:",) if cpu.unavailable_reason() is None else ()
    for beginning in ("devices:", "processor:", "versions:", "allocator:", "C++:", *rates, "attention:", "dense:"):
        assert any(line.startswith(beginning) for line in lines), beginning


@pytest.mark.skipif("avx2" not in cpu.instruction_sets(), reason="no C++ kernels for AVX2")
def test_it_lists_the_instruction_sets_of_this_machine_up_to_the_cap(run_python):
    script = "from ryot_jax.kernels import cpu\nfrom ryot_jax.runs import doctor\nprint(doctor._instruction_sets())"
    free = run_python("-c", script, environment={"RYOT_CPU_ISA": ""}).stdout
    usable = ", ".join(cpu.instruction_sets())
    assert f"kernels for {cpu.instruction_set()}" in free and free.endswith(f"; this machine can use {usable}\n")
    capped = run_python("-c", script, environment={"RYOT_CPU_ISA": "avx2"}).stdout
    assert (
        capped == "kernels for avx2 and, in bfloat16, avx2; this machine can use avx2, capped at avx2 by RYOT_CPU_ISA\n"
    )


def test_its_code_imports_no_command(run_python):
    run_python(
        "import sys, ryot_jax.runs.doctor\n"
        "assert not [name for name in sys.modules if name.startswith('ryot_jax.commands')]"
    )
