"""Descriptions of GPUs, and the programs that `experiments.gpu_compile` compiles for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

# From the vendor's data sheets and from XLA's descriptions of such devices (xla/tools/hlo_opt/gpu_specs).
GPUS: dict[str, dict[str, Any]] = {
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


def target_config(gpu: str) -> str:
    """XLA's description of a GPU, which it accepts instead of the device."""
    return _TARGET.format(**GPUS[gpu])


Made = tuple[Callable[..., Any], tuple[Any, ...]]


def _step(gpu: str, *, optimized: bool, **wishes: str) -> Made:
    """The training step of `gpt2_small.py` with 16 sequences, as abstract state and batch.

    `wishes`: op -> implementation, overriding the config's.
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

    config = load(str(Path(__file__).parents[2] / "configs" / "gpt2_small.py"), ["--config.training.batch_size=16"])
    config.optimizations.update(wishes)
    capability = ".".join(map(str, GPUS[gpu]["capability"]))
    devices = Devices("gpu", GPUS[gpu]["name"], 1, 1, 0, 1, capability)
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
