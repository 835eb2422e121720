"""Training steps compiled for NVIDIA GPUs on a machine without one: their memory, kernels and library calls.

    make gpu                                # with NVIDIA's compilers and libraries in .gpu/, which this installs
    make gpu ARGS='--gpus H100 --write'

XLA compiles for a description of a GPU (its target configuration) as for a local one, except for autotuning: memory,
number of kernels and library calls are those of the program; times are unknown. The programs are the step of
`gpt2_small.py`, as baseline, optimized and with 8-bit products, and linear + cross-entropy of 32,768 rows of 2,560 with
a vocabulary of 128,256, on full logits and on chunks; each in a separate process, as a compiler that does not support a
GPU may end it.

Goals are the limits in `gpu_ceilings.json`: the largest temporary memory and number of kernels, the library calls and
matrix instructions (in the PTX of the kernels) that prove an optimization on, and the only dtypes allowed for operands
of XLA's products (float32 ones would take twice the time). Exit code 0: all held, 3: one exceeded.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.lib import record
from experiments.lib.gpu_programs import GPUS, PROGRAMS, target_config
from experiments.lib.record import Table
from ryot_jax.comparison.criteria import Criterion

CEILINGS = Path(__file__).parent / "gpu_ceilings.json"
LIMIT_SECONDS = 600
GIB = 2**30
_LAUNCH = re.compile(r"^\d+: k", re.MULTILINE)
_MATRIX_INSTRUCTION = re.compile(r"\b(wgmma|mma\.sync)\b")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", nargs="+", choices=list(GPUS), default=list(GPUS))
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--workers", type=int, default=2, help="programs that are compiled at once")
    parser.add_argument("--one", nargs=2, metavar=("GPU", "PROGRAM"), help="compile one, and print it as JSON")
    parser.add_argument("--write", action="store_true", help="write experiments/results/gpu_compile.md")
    options = parser.parse_args(words)
    if options.one:
        print(json.dumps(compiled(*options.one)))
        return 0
    ceilings = json.loads(CEILINGS.read_text(encoding="utf-8"))
    # A program without a ceiling is not compiled for a GPU.
    jobs = [(gpu, program) for gpu in options.gpus for program in options.programs if program in ceilings[gpu]]
    with ThreadPoolExecutor(options.workers) as pool:
        every = list(pool.map(lambda job: in_a_process(*job), jobs))
    rows = [_row(gpu, program, found) for (gpu, program), found in zip(jobs, every, strict=True)]
    criteria = [
        judged(gpu, program, found, ceilings[gpu][program]) for (gpu, program), found in zip(jobs, every, strict=True)
    ]
    header = (
        *("GPU and program", "temporary GiB", "arguments GiB", "kernels", "launches"),
        *("calls of libraries", "matrix instructions", "s compiling"),
    )
    return record.conclude(
        "gpu_compile",
        "Programs compiled for GPUs",
        command=record.command("experiments.gpu_compile", words),
        tables=[Table("programs", header, rows)],
        criteria=criteria,
        notes=[
            "Compiled without a GPU: nothing was run or timed, and no product was autotuned.",
            "Launches are those of the host, one for a CUDA graph, into which XLA records what it can.",
        ],
        write=options.write,
    )


def in_a_process(gpu: str, program: str) -> dict[str, Any]:
    """Run `compiled` in a separate process; a failure gives {'failure': its last line}."""
    command = [sys.executable, "-m", "experiments.gpu_compile", "--one", gpu, program]
    # JAX reads these when it looks for its plugins.
    environment = {**os.environ, "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_dump_to={folder}"
        environment["MOSAIC_GPU_DUMP_TO"] = folder  # the PTX of Mosaic's kernels, which XLA does not see
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=LIMIT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return {"failure": f"not done after {LIMIT_SECONDS} s"}
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            return {"failure": f"exit code {done.returncode}: {lines[-1] if lines else 'no message'}"}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found | {
            "instructions": _matrix_instructions(Path(folder)),
            "launches": _launches(Path(folder)),
        }


def _matrix_instructions(folder: Path) -> dict[str, int]:
    """The number of matrix instructions in the kernels of a program, by the name of the instruction."""
    counts: collections.Counter[str] = collections.Counter()
    for path in folder.glob("*.ptx"):
        counts.update(_MATRIX_INSTRUCTION.findall(path.read_text(encoding="utf-8", errors="replace")))
    return dict(sorted(counts.items()))


def _launches(folder: Path) -> int | None:
    """The number of kernels, calls and CUDA graphs that the host launches in one execution; None where not reported.

    XLA records as much as it can into graphs, which it calls command buffers. In its list of a program's thunks the
    contents of a graph or a loop are indented.
    """
    lists = sorted(folder.glob("*thunk_sequence_after_thunk_passes.txt"), key=lambda path: path.stat().st_size)
    return len(_LAUNCH.findall(lists[-1].read_text(encoding="utf-8"))) if lists else None


def compiled(gpu: str, program: str) -> dict[str, Any]:
    """Compile a program for a GPU and return the memory, kernels, calls and products that the compiler reports."""
    import time

    import jax
    from jax.experimental import topologies

    from ryot_jax.runtime import hlo

    topology = topologies.get_topology_desc(platform="cuda", target_config=target_config(gpu), topology="1x1x1")
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def abstract(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    # Pallas kernels query the device that they are compiled for.
    device = jax.sharding.AbstractDevice(device_kind=GPUS[gpu]["name"], num_cores=GPUS[gpu]["cores"], platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        function, arguments = PROGRAMS[program](gpu)
        start = time.perf_counter()
        executable = jax.jit(function, donate_argnums=0).lower(*map(abstract, arguments)).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    assert memory is not None, "XLA:GPU tells the memory of its programs"
    text = executable.as_text() or ""
    parsed = hlo.parse(text)
    targets = parsed.custom_calls
    return {
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "kernels": hlo.launches(text),
        "calls": {target: targets.count(target) for target in sorted(set(targets))},
        "products": sorted({f"{a.dtype} x {b.dtype}" for a, b in parsed.dots}),
        "seconds": seconds,
    }


def judged(gpu: str, program: str, found: dict[str, Any], ceiling: dict[str, Any]) -> Criterion:
    """The criterion that a program keeps its ceilings and has the required calls."""
    proofs = [*ceiling.get("calls", ()), *ceiling.get("instructions", ())]
    products = ceiling.get("products")
    name = f"{program} for {gpu}"
    target = ", ".join([f"at most {ceiling['temp_gib']:g} GiB and {ceiling['kernels']} kernels", *proofs])
    target += "" if products is None else f", products {' and '.join(products)} alone"
    if "failure" in found:
        return Criterion(name, target, found["failure"], "FAIL")
    missing = [
        proof for proof in proofs if not any(proof in seen for seen in (*found["calls"], *found["instructions"]))
    ]
    held = found["temp_bytes"] <= ceiling["temp_gib"] * GIB and found["kernels"] <= ceiling["kernels"] and not missing
    actual = f"{found['temp_bytes'] / GIB:.2f} GiB, {found['kernels']} kernels"
    actual += "".join(f", no {call}" for call in missing)
    if "launches" in ceiling and found["launches"] is not None:
        target += f", {ceiling['launches']} launches"
        held, actual = held and found["launches"] <= ceiling["launches"], f"{actual}, {found['launches']} launches"
    if products is not None and set(products) != set(found["products"]):
        held, actual = False, f"{actual}, products {' and '.join(found['products'])}"
    return Criterion(name, target, actual, "PASS" if held else "FAIL")


def _row(gpu: str, program: str, found: dict[str, Any]) -> tuple[str, ...]:
    name = f"{gpu}, {program}"
    if "failure" in found:
        return (name, found["failure"], "", "", "", "", "", "")
    calls, instructions = (
        ", ".join(f"{count} {target}" for target, count in found[kind].items()) for kind in ("calls", "instructions")
    )
    return (
        name,
        f"{found['temp_bytes'] / GIB:.2f}",
        f"{found['argument_bytes'] / GIB:.2f}",
        str(found["kernels"]),
        "not told" if found["launches"] is None else str(found["launches"]),
        calls,
        instructions,
        f"{found['seconds']:.1f}",
    )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
