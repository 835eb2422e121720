"""What becomes of a training step on NVIDIA GPUs? Compiled for them on a machine that has none.

    make gpu                                # with NVIDIA's compilers and libraries in .gpu/, which this installs
    make gpu ARGS='--gpus H100 --write'

XLA compiles for a description of a GPU (its target configuration) as it does beside one, but for autotuning: memory,
number of kernels and the calls of libraries are those of the program, times are not known. Compiled are the step of
`gpt2_small.py`, as baseline, optimized and with 8-bit products, and linear + cross-entropy of 32,768 rows of 2,560 with
a vocabulary of 128,256, on full logits and on chunks; each in a process of its own, as a compiler that cannot take a
GPU may end it.

Goals are the ceilings in `gpu_ceilings.json`: temporary memory and kernels at most as given, the library calls and
matrix instructions (in the PTX of the kernels) that prove an optimization on, and the dtypes of the operands of XLA's
products, of which there may be no others (float32 ones would take twice the time). Exit code 0: all held, 3: one is
broken.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.lib import record
from experiments.lib.record import Table
from ryot_jax.comparison.criteria import Criterion

CEILINGS = Path(__file__).parent / "gpu_ceilings.json"
LIMIT_SECONDS = 600
GIB = 2**30
_LAUNCH = re.compile(r"^\d+: k", re.MULTILINE)
_MATRIX_INSTRUCTION = re.compile(r"\b(wgmma|mma\.sync)\b")

# Of the vendor's data sheets and of what XLA prints beside such a device (xla/tools/hlo_opt/gpu_specs).
_GPUS: dict[str, dict[str, Any]] = {
    "T4": {
        "name": "Tesla T4",
        "capability": (7, 5),
        "cores": 40,
        "threads": 1024,
        "fpus": 64,
        "shared": 65_536,
        "shared_optin": 65_536,
        "bytes_per_second": 320e9,
        "cache": 4 << 20,
        "ghz": 1.59,
        "memory": 15.6e9,
    },
    "L4": {
        "name": "NVIDIA L4",
        "capability": (8, 9),
        "cores": 58,
        "threads": 1536,
        "fpus": 128,
        "shared": 102_400,
        "shared_optin": 101_376,
        "bytes_per_second": 300e9,
        "cache": 48 << 20,
        "ghz": 2.04,
        "memory": 23.6e9,
    },
    "A100": {
        "name": "NVIDIA A100-SXM4-80GB",
        "capability": (8, 0),
        "cores": 108,
        "threads": 2048,
        "fpus": 64,
        "shared": 167_936,
        "shared_optin": 166_912,
        "bytes_per_second": 2039e9,
        "cache": 40 << 20,
        "ghz": 1.41,
        "memory": 84.9e9,
    },
    "H100": {
        "name": "NVIDIA H100 80GB HBM3",
        "capability": (9, 0),
        "cores": 132,
        "threads": 2048,
        "fpus": 128,
        "shared": 233_472,
        "shared_optin": 232_448,
        "bytes_per_second": 3352e9,
        "cache": 50 << 20,
        "ghz": 1.98,
        "memory": 84.9e9,
    },
}
_TARGET = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} threads_per_core_limit: {threads} core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bytes_per_second:.0f} l2_cache_size: {cache} clock_rate_ghz: {ghz} device_memory_size: {memory:.0f}
  shared_memory_per_block_optin: {shared_optin} registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }} }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{name}" """


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", nargs="+", choices=list(_GPUS), default=list(_GPUS))
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--workers", type=int, default=2, help="programs that are compiled at once")
    parser.add_argument("--one", nargs=2, metavar=("GPU", "PROGRAM"), help="compile one, and print it as JSON")
    parser.add_argument("--write", action="store_true", help="write experiments/results/gpu_compile.md")
    options = parser.parse_args(words)
    if options.one:
        print(json.dumps(compiled(*options.one)))
        return 0
    ceilings = json.loads(CEILINGS.read_text(encoding="utf-8"))
    # What has no ceiling is not asked of a GPU.
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
    """`compiled` in a process of its own; a failure is {'failure': its last words}."""
    command = [sys.executable, "-m", "experiments.gpu_compile", "--one", gpu, program]
    # Read by JAX when it looks for its plugins.
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
    """How often the kernels of a program multiply matrices by each kind of instruction, by its name."""
    counts: collections.Counter[str] = collections.Counter()
    for path in folder.glob("*.ptx"):
        counts.update(_MATRIX_INSTRUCTION.findall(path.read_text(encoding="utf-8", errors="replace")))
    return dict(sorted(counts.items()))


def _launches(folder: Path) -> int | None:
    """How many kernels, calls and CUDA graphs the host launches in one execution; None: this version does not say.

    XLA records what it can into graphs, which it calls command buffers. Its list of a program's thunks has what is in
    one of them, or in a loop, indented.
    """
    lists = sorted(folder.glob("*thunk_sequence_after_thunk_passes.txt"), key=lambda path: path.stat().st_size)
    return len(_LAUNCH.findall(lists[-1].read_text(encoding="utf-8"))) if lists else None


def compiled(gpu: str, program: str) -> dict[str, Any]:
    """What the compiler says of a program for a GPU."""
    import time

    import jax
    from jax.experimental import topologies

    from ryot_jax.runtime import hlo

    topology = topologies.get_topology_desc(
        platform="cuda", target_config=_TARGET.format(**_GPUS[gpu]), topology="1x1x1"
    )
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def abstract(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    # Kernels in Pallas ask what they are compiled for.
    device = jax.sharding.AbstractDevice(device_kind=_GPUS[gpu]["name"], num_cores=_GPUS[gpu]["cores"], platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        function, arguments = PROGRAMS[program](gpu)
        start = time.perf_counter()
        executable = jax.jit(function, donate_argnums=0).lower(*map(abstract, arguments)).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
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
    """Whether a program keeps its ceilings and has the calls that it must have."""
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


Made = tuple[Callable[..., Any], tuple[Any, ...]]


def _step(gpu: str, *, optimized: bool, **wishes: str) -> Made:
    """The training step of `gpt2_small.py` with 16 sequences, as abstract state and batch.

    `wishes`: op -> implementation, in place of the config's.
    """
    import jax
    import jax.numpy as jnp

    from ryot_jax.config import load
    from ryot_jax.machine.devices import Devices
    from ryot_jax.model import functional
    from ryot_jax.model.config import from_config
    from ryot_jax.optimizations import KernelPlan, resolve
    from ryot_jax.training.optimizer import make_optimizer
    from ryot_jax.training.setup import kernel_spec
    from ryot_jax.training.state import init_state
    from ryot_jax.training.step_programs import step_function

    config = load(str(Path(__file__).parents[1] / "configs" / "gpt2_small.py"), ["--config.training.batch_size=16"])
    config.optimizations.update(wishes)
    capability = ".".join(map(str, _GPUS[gpu]["capability"]))
    devices = Devices("gpu", _GPUS[gpu]["name"], 1, 1, 0, 1, capability)
    model = from_config(config.model, "gpu", capability)
    plan = KernelPlan()
    if optimized:
        plan = resolve(config.optimizations, spec=kernel_spec(config, model, devices)).plan
    training = config.training
    optimizer = make_optimizer(training, training.epochs * training.steps_per_epoch)
    step = step_function(config, model, functional.graph(model), optimizer, plan)
    state = jax.eval_shape(lambda: init_state(model, optimizer, 0)[1])
    shape = jax.ShapeDtypeStruct((training.batch_size, training.seq_len), jnp.int32)
    return step, (state, {"inputs": shape, "targets": shape})


def _cross_entropy(gpu: str, implementation: str) -> Made:
    """Value and gradients of linear + cross-entropy on a wide vocabulary."""
    import jax
    import jax.numpy as jnp

    from ryot_jax.kernels import linear_cross_entropy

    del gpu
    N, D, V = 32_768, 2_560, 128_256

    def loss(operands: tuple[jax.Array, jax.Array], targets_N: jax.Array) -> jax.Array:
        return linear_cross_entropy(*operands, targets_N, implementation=implementation)[0]

    x_ND, w_VD = jax.ShapeDtypeStruct((N, D), jnp.bfloat16), jax.ShapeDtypeStruct((V, D), jnp.bfloat16)
    return jax.value_and_grad(loss), ((x_ND, w_VD), jax.ShapeDtypeStruct((N,), jnp.int32))


def _attention(gpu: str, implementation: str) -> Made:
    """Causal attention of packed heads, forward and backward, at the size of `gpt2_small.py`'s step."""
    import jax
    import jax.numpy as jnp

    from ryot_jax.kernels import packed_attention

    del gpu
    qkv_BTNK, o_BTHK = (jax.ShapeDtypeStruct((16, 1024, heads, 64), jnp.bfloat16) for heads in (36, 12))

    def both(qkv_BTNK: jax.Array, do_BTHK: jax.Array) -> Any:
        o_BTHK, vjp = jax.vjp(lambda qkv: packed_attention(qkv, 12, implementation=implementation), qkv_BTNK)
        return o_BTHK, vjp(do_BTHK)

    return both, (qkv_BTNK, o_BTHK)


def _norm(gpu: str, implementation: str) -> Made:
    """Layer norm and the residual path, forward and backward, at the size of `gpt2_small.py`'s step."""
    import jax
    import jax.numpy as jnp

    from ryot_jax.kernels import layer_norm

    del gpu
    x_ND, vector_D = jax.ShapeDtypeStruct((16_384, 768), jnp.bfloat16), jax.ShapeDtypeStruct((768,), jnp.float32)

    def both(x_ND: jax.Array, scale_D: jax.Array, bias_D: jax.Array, cotangents: Any) -> Any:
        def norm(*operands: jax.Array) -> Any:
            return layer_norm(*operands, with_sum=True, implementation=implementation)

        outcome, vjp = jax.vjp(norm, x_ND, scale_D, bias_D)
        return outcome, vjp(cotangents)

    return both, (x_ND, vector_D, vector_D, (x_ND, x_ND))


PROGRAMS: dict[str, Callable[[str], Made]] = {
    "gpt2_small step, baseline": lambda gpu: _step(gpu, optimized=False),
    "gpt2_small step, optimized": lambda gpu: _step(gpu, optimized=True),
    "gpt2_small step, products of 8-bit floats": lambda gpu: _step(gpu, optimized=True, dense="fp8"),
    "linear + cross-entropy, reference": lambda gpu: _cross_entropy(gpu, "reference"),
    "linear + cross-entropy, xla": lambda gpu: _cross_entropy(gpu, "xla"),
    "linear + cross-entropy, triton": lambda gpu: _cross_entropy(gpu, "triton"),
    "linear + cross-entropy, mosaic": lambda gpu: _cross_entropy(gpu, "mosaic"),
    "attention, mosaic": lambda gpu: _attention(gpu, "mosaic"),
    "norm, triton": lambda gpu: _norm(gpu, "triton"),
    "norm, mosaic": lambda gpu: _norm(gpu, "mosaic"),
}


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
