"""The library's two tables as Python reads them, its cap, and calls that run at once."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")


def _norm_backward(**aliases):
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((40, 24), (40, 24), 24, (40, 2), (40, 24))]
    matrix, vector = jax.ShapeDtypeStruct((40, 24), jnp.float32), jax.ShapeDtypeStruct((24,), jnp.float32)

    def run(*operands):
        out = matrix, vector, vector
        return cpu.call("ryot_norm_backward", out, *operands, centre=np.int64(1), **aliases)

    return jax.jit(run), operands


def test_the_table_names_operands_results_and_attributes():
    handler = cpu.handlers()["ryot_norm_backward"]
    assert handler.operands == ("dy", "s", "scale", "statistics", "ds")
    assert handler.results == ("dx", "dscale", "dbias")
    assert handler.attributes == ("centre",)
    adamw = cpu.handlers()["ryot_adamw"]
    assert adamw.operands == ("numbers", "decays", "arrays...")
    assert adamw.results == ("norm", "updated...")
    assert cpu.handlers()["ryot_embedding_backward"].attributes == ()


def test_a_result_takes_the_memory_of_the_operand_that_is_named():
    by_name, operands = _norm_backward(aliases={"ds": "dx"})
    plain, _ = _norm_backward()
    assert "operand_index = 4" in by_name.lower(*operands).as_text().replace("operandIndex", "operand_index")
    for a, b in zip(by_name(*operands), plain(*operands), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("operand", "result"), [("dz", "dx"), ("ds", "dz"), ("ds[0]", "dx")])
def test_an_alias_of_what_a_handler_does_not_have_is_refused(operand, result):
    run, operands = _norm_backward(aliases={operand: result})
    with pytest.raises(KeyError, match="ryot_norm_backward has no"):
        run(*operands)


def test_arrays_of_any_number_are_named_by_their_place():
    array = jnp.ones(5)
    leaf = jax.ShapeDtypeStruct((5,), jnp.float32)
    out = [jax.ShapeDtypeStruct((1,), jnp.float32), leaf, leaf, leaf]
    attributes = {name: np.float32(0.5) for name in cpu.handlers()["ryot_adamw"].attributes}
    aliases = {"arrays[0]": "updated[0]", "arrays[2]": "updated[1]", "arrays[3]": "updated[2]"}

    def run(*arrays):
        return cpu.call("ryot_adamw", out, jnp.ones(4), jnp.zeros(1), *arrays, aliases=aliases, **attributes)

    text = jax.jit(run).lower(array, array, array, array).as_text().replace("operandIndex", "operand_index")
    assert all(f"operand_index = {i}" in text for i in (2, 4, 5))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", cpu.instruction_sets())
def test_calls_take_the_instruction_set_that_the_cap_names(name, dtype):
    if name not in cpu.instruction_sets(dtype):
        pytest.skip(f"{name} has no kernels for {dtype}")
    with cpu.capped_at(name):
        assert cpu.instruction_set(dtype) == name and name in cpu.instruction_sets()
        run, operands = _norm_backward()
        assert all(np.isfinite(result).all() for result in run(*operands))


def test_a_cap_ends_with_its_context_and_none_lifts_another():
    before = cpu.instruction_sets()
    lowest = cpu.instruction_sets("float32")[-1]
    with cpu.capped_at(lowest):
        assert cpu.instruction_sets("float32") == (lowest,)
        assert cpu.instruction_set() == lowest
        with cpu.capped_at(before[0]):
            assert cpu.instruction_sets("float32") == (lowest,)
    assert cpu.instruction_sets() == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_without_kernels_says_what_it_needs_and_that_it_is_capped(monkeypatch, dtype):
    lowest = cpu.instruction_sets(dtype)[-1]
    with cpu.capped_at(lowest):
        assert cpu.unavailable_reason(dtype) is None
        monkeypatch.setattr(cpu.Library, "best", lambda library, bfloat16: "")
        reason = cpu.unavailable_reason(dtype)
    assert f"need a processor with AVX2 and FMA for {dtype}" in reason
    assert f"capped at {lowest}" in reason


@pytest.mark.parametrize("name", cpu.emulated_instruction_sets())
def test_an_emulation_is_used_only_where_it_is_named(name):
    assert name not in cpu.instruction_sets() and name != cpu.instruction_set("bfloat16")
    best = cpu.instruction_sets()[0]
    with cpu.capped_at(name):
        assert cpu.instruction_set("bfloat16") == name and cpu.instruction_set() in cpu.instruction_sets("float32")
    with cpu.capped_at(best):
        assert name not in cpu.instruction_sets()


def test_what_an_instruction_set_lacks_here_is_said():
    missing = cpu.missing_instruction_sets()
    assert not set(missing) & {*cpu.instruction_sets(), *cpu.emulated_instruction_sets()}
    assert all(missing.values())
    assert ("avx512" in missing) == ("AVX-512" in " ".join(missing.values()))


def test_an_unknown_cap_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"instruction set='sse9' is no instruction set.*avx2"), cpu.capped_at("sse9"):
        pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("avx2", "avx2 'avx2'"),
        ("", f"{cpu.instruction_set()} {cpu.instruction_set('bfloat16')!r}"),
        ("avx3", "ValueError: RYOT_CPU_ISA='avx3' is no instruction set of the C++ kernels: choose one of"),
    ],
)
def test_the_environment_caps_the_instruction_set(value, said):
    program = "from ryot_jax.kernels import cpu; print(cpu.instruction_set(), repr(cpu.instruction_set('bfloat16')))"
    environment = {**os.environ, "RYOT_CPU_ISA": value, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert said in done.stdout + done.stderr
    if value == "avx3":
        assert all(name in done.stderr.strip().split("\n")[-1] for name in ("avx512bf16", "avx512", "avx2"))


def test_two_calls_at_once_on_one_pool_do_not_mix():
    run, operands = _norm_backward()
    many = [[operand * (1 + i) if i else operand for operand in operands] for i in range(4)]
    alone = [jax.tree.map(np.asarray, run(*arrays)) for arrays in many]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            together = list(threads.map(lambda arrays: jax.block_until_ready(run(*arrays)), many))
            for results, expected in zip(together, alone, strict=True):
                for a, b in zip(results, expected, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_cache_sizes_are_those_of_the_system():
    for level, name, least in ((1, "SC_LEVEL1_DCACHE_SIZE", 8 << 10), (2, "SC_LEVEL2_CACHE_SIZE", 64 << 10)):
        assert cpu.cache_size(level) >= least
        if (known := os.sysconf(name) if name in os.sysconf_names else 0) > 0:
            assert cpu.cache_size(level) == known


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_every_header_can_be_read_by_itself(build):
    """Tools that open one header (clangd) find all that it needs."""
    parts = {"begin_target.h", "end_target.h"}  # of a target's file
    # Not what AVX2, the target that tools are shown, is compiled with.
    parts |= {
        "avx512.h",
        "bfloat16_avx512.h",
        "neon.h",
        "row_pair_kernel.h",
        "tiles.h",
        "amx.h",
        "emulated.h",
        "shape.h",
        "tile_kernel.h",
    }
    parts |= {path.name for path in (build.KERNELS / "core" / "scalar").glob("bfloat16_*.h")}
    headers = [p for f in ("core", "ops") for p in sorted((build.KERNELS / f).rglob("*.h")) if p.name not in parts]
    assert len(headers) > 20

    def read(header):
        return subprocess.run(
            ["g++", "-std=c++17", "-fsyntax-only", "-w", "-x", "c++", str(header)], capture_output=True, text=True
        )

    with ThreadPoolExecutor(2) as pool:
        for header, done in zip(headers, pool.map(read, headers), strict=True):
            assert done.returncode == 0, f"{header}: {done.stderr}"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_a_target_that_is_a_new_file_is_found_by_its_file_alone(build, programs, tmp_path):
    kernels = tmp_path / "cpu"
    shutil.copytree(build.KERNELS, kernels, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    lowest = cpu.instruction_sets("float32")[-1]
    text = (kernels / "targets" / f"{lowest}.cc").read_text()
    renamed = text.replace(f'kName[] = "{lowest}"', 'kName[] = "another"')
    assert renamed != text
    for file in (kernels / "targets").glob("*.cc"):
        file.unlink()
    (kernels / "targets" / "avx2.cc").write_text(text)  # which core/target.h shows to tools
    (kernels / "targets" / "another.cc").write_text(renamed)
    program = build.exercise(programs, "-O0", kernels=kernels)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
    assert set(done.stdout.split("\n")[:-2]) == {lowest, "another"}
