"""Which implementation each op runs with, and why.

Wishes (`'off'`, `'auto'` or a name per op) and a description of the work go in; a plan and the reasons come
out. A wish that cannot be met raises: nothing falls back in silence.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

from ryot_jax.kernels import cpu
from ryot_jax.kernels.gpu import pallas, triton
from ryot_jax.kernels.ops.attention import mosaic as mosaic_attention
from ryot_jax.kernels.ops.dense import fp8
from ryot_jax.kernels.ops.linear_cross_entropy.api import rows_at_a_time
from ryot_jax.kernels.ops.norm import mosaic as mosaic_norm
from ryot_jax.machine.processor import cpu_flags
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """The implementation of each op, and the dtype between them; the default is the baseline.

    `dense` is every product with a weight matrix, with the activation or the residual sum behind it; `norm` layer
    norm and RMS norm; `optimizer` the step of AdamW. `activations` is the dtype of the arrays between the ops of a
    block ('': the model's compute dtype); the residual stream keeps the model's dtype. `qat` and `dispatch` are no ops:
    'float' is the loss of the weights as they are, 'round' that of rounded ones in the last part of training; 'step' is
    one training step a call of the compiled program, 'scan' several.
    """

    activations: str = ""
    linear_cross_entropy: str = "reference"
    attention: str = "reference"
    dense: str = "reference"
    norm: str = "reference"
    embedding: str = "reference"
    dropout: str = "reference"
    optimizer: str = "reference"
    qat: str = "float"
    dispatch: str = "step"


@dataclasses.dataclass(frozen=True)
class Spec:
    """The work and the machine that a plan is made for. Sizes are those of one training step.

    `n_devices` is the number of devices that the compiler has to partition one program over: 1 under `shard_map`
    and `pmap`, where each device has a program of its own.
    """

    platform: str  # 'cpu', 'gpu' or 'tpu'
    n_devices: int
    compute_dtype: str
    rows: int  # batch times sequence length
    d_model: int
    d_ff: int
    vocab_size: int
    seq_len: int
    n_heads: int
    mlp: str = "gelu"  # gelu | swiglu | relu2
    norm: str = "layer"  # layer | rms; 'rms' models have no biases
    rotary: bool = False
    dropout: float = 0.0
    optimizer: str = "adamw"  # of `training.optimizer`
    compute_capability: str = ""  # of an NVIDIA GPU, such as '9.0'
    activations: str = ""  # of the plan, once that is resolved
    one_step_a_call: str = ""  # why a call of the compiled program cannot take several steps; '': it can

    @property
    def dtype(self) -> str:
        """Dtype of the arrays between the ops of a block."""
        return self.activations or self.compute_dtype


@dataclasses.dataclass(frozen=True)
class Choice:
    """An implementation that was found best before, and how that is known."""

    implementation: str
    reason: str


Lookup = Callable[[str, Spec], Choice | None]
"""(op, the work) -> what was chosen for it before, by a measurement or by the run that is gone on with."""


@dataclasses.dataclass(frozen=True)
class Resolution:
    """A plan, and for each of its fields the sentence that says why it came out so."""

    plan: KernelPlan
    reasons: dict[str, str]

    def lines(self) -> list[str]:
        """One line for each op: its implementation and the reason."""
        return [f"{op}: {shown(name)} ({self.reasons[op]})" for op, name in dataclasses.asdict(self.plan).items()]


def shown(implementation: str) -> str:
    """The name of an implementation for people: no dtype between the ops is the model's own."""
    return implementation or "as the model"


Wishes = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """`refusal`: why it cannot take the work; `drawback`: why 'auto' leaves it, though it could. None: it does.

    `tunable`: whether a measurement of its speed, on numbers that are as the reference's, means anything.
    """

    refusal: Callable[[Spec], str | None] = lambda spec: None
    drawback: Callable[[Spec, Wishes], str | None] = lambda spec, wanted: None
    tunable: bool = True


def _cpu_refusal(spec: Spec) -> str | None:
    return _cpp_refusal(spec, spec.compute_dtype, spec.dtype)


def _cpu_embedding_refusal(spec: Spec) -> str | None:
    return _cpp_refusal(spec, "float32")  # weights and their gradients are float32 whatever the model computes in


def _cpp_refusal(spec: Spec, *dtypes: str) -> str | None:
    if spec.platform != "cpu":
        return f"the C++ kernels run on the CPU, not on {spec.platform}"
    if spec.n_devices > 1:
        # The partitioner cannot split a custom call: it would gather the whole batch on every device.
        return f"the C++ kernels cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    return next((reason for dtype in dtypes if (reason := cpu.unavailable_reason(dtype)) is not None), None)


def _cudnn_refusal(spec: Spec) -> str | None:
    if spec.platform != "gpu":
        return f"cuDNN runs on NVIDIA GPUs, not on {spec.platform}"
    capability = spec.compute_capability
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < 8.0:
        return f"cuDNN's fused attention needs compute capability 8.0 (Ampere), this device has {capability or 'none'}"
    if spec.dtype not in ("bfloat16", "float16"):
        return f"cuDNN's fused attention takes bfloat16 and float16, not {spec.dtype}"
    if spec.seq_len % 2:
        return f"cuDNN's fused attention differentiates even lengths, not seq_len = {spec.seq_len}"
    width, most = spec.d_model // spec.n_heads, 256 if float(capability) >= 9.0 else 128
    if width % 8 or width > most:
        return f"cuDNN's fused attention takes heads of multiples of 8 up to {most} here, not of {width}"
    return None


def _pallas_refusal(backend: str, spec: Spec) -> str | None:
    if spec.platform != "gpu":
        return f"{backend} kernels run on NVIDIA GPUs, not on {spec.platform}"
    if spec.n_devices > 1:
        return f"{backend} kernels cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    return pallas.refusal(backend, spec.compute_capability)


def _triton_refusal(spec: Spec) -> str | None:
    return _pallas_refusal("triton", spec)


def _triton_norm_refusal(spec: Spec) -> str | None:
    if spec.d_model > triton.LARGEST_D:
        return f"triton's norms take d_model up to {triton.LARGEST_D}, not {spec.d_model}"
    return _triton_refusal(spec)


def _mosaic_norm_refusal(spec: Spec) -> str | None:
    if (reason := mosaic_norm.refusal(spec.d_model)) is not None:
        return f"mosaic's norms {reason}"
    return _pallas_refusal("mosaic", spec)


def _mosaic_products_refusal(spec: Spec) -> str | None:
    if spec.dtype not in ("bfloat16", "float16"):
        return f"mosaic's matrix products take bfloat16 and float16, not {spec.dtype}"
    return _pallas_refusal("mosaic", spec)


def _mosaic_attention_refusal(spec: Spec) -> str | None:
    if (width := spec.d_model // spec.n_heads) not in mosaic_attention.BLOCKS:
        return f"mosaic's attention takes heads of {' or '.join(map(str, mosaic_attention.BLOCKS))}, not of {width}"
    return _mosaic_products_refusal(spec)


def _mosaic_attention_drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    version = pallas.cuda_version()
    if version is not None and 12_080 <= version < 12_091:  # as jax's own example of flash attention refuses it
        return f"ptxas of CUDA 12.8 and 12.9.0 gets causal masks wrong, and this is CUDA {version}, or a later 12.9"
    return None


def _cpu_optimizer_refusal(spec: Spec) -> str | None:
    if spec.optimizer != "adamw":
        return f"the kernel takes steps of adamw, not of {spec.optimizer}"
    return _cpp_refusal(spec, "float32")  # as weights and their gradients


def _scan_refusal(spec: Spec) -> str | None:
    if spec.n_devices > 1:
        # Its chunks lie one after the other on the axis that is sharded: each device would wait for the others.
        return f"a scan over rows cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    if spec.rows <= (chunk := rows_at_a_time(spec.rows, spec.d_model, spec.vocab_size)):
        return f"its first chunk of {chunk} rows is the whole of {spec.rows}: it would do what the reference does"
    return None


def _bf16_products_refusal(spec: Spec) -> str | None:
    if spec.platform != "cpu":
        return f"on {spec.platform} model.compute_dtype decides the products' dtype"
    if spec.compute_dtype != "float32":
        return f"the model computes in {spec.compute_dtype} already"
    if "avx512_bf16" not in cpu_flags():
        return "this CPU has no AVX512-BF16, and bfloat16 products are slower than float32 without it"
    return None


def _fp8_refusal(spec: Spec) -> str | None:
    if spec.platform != "gpu":
        return f"products of 8-bit floats run on NVIDIA GPUs, not on {spec.platform}"
    rows = spec.rows // spec.n_devices
    return fp8.refusal(spec.compute_capability, spec.dtype, {"rows": rows, "d_model": spec.d_model, "d_ff": spec.d_ff})


def _fp8_drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    return "3 bits of mantissa change what is trained by more than the other kernels do"


def _bf16_activations_refusal(spec: Spec) -> str | None:
    if spec.compute_dtype != "float32":
        return f"the model computes in {spec.compute_dtype} already"
    return None


def _bf16_activations_drawback(spec: Spec, wanted: Wishes) -> str | None:
    # XLA:CPU stores bfloat16 but computes in float32, with a conversion at each end.
    if reason := _cpu_refusal(dataclasses.replace(spec, activations="bfloat16")):
        return f"it pays with C++ kernels alone, and {reason}"
    for op in ("linear_cross_entropy", "attention", "dense", "norm"):
        if (wish := wanted.get(op, "off")) not in ("auto", "cpu"):
            return f"it pays with C++ kernels alone, and optimizations.{op} = {wish!r}"
    return None


def _no_dropout_refusal(spec: Spec) -> str | None:
    return None if spec.dropout > 0 else "the model has no dropout"


def _hash_drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    # One seed's other masks move the loss by more than the kernels may (0.05 nats in the smoke run with dropout 0.1).
    return "its masks are others than the baseline's, so one pair of arms would compare two seeds"


def _qat_drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    return "it changes what is trained, the loss of rounded weights, so the arms would be compared at other losses"


def _xla_norm_drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    return "no faster than XLA's own derivative where it was measured; it saves memory"


def _several_steps_refusal(spec: Spec) -> str | None:
    return spec.one_step_a_call or None


def _several_steps_drawback(spec: Spec, wanted: Wishes) -> str | None:
    del wanted
    # On a CPU the host dispatches on a core that the kernels want; beside an accelerator it has one of its own.
    return None if spec.platform == "cpu" else f"it was measured on CPUs, not on {spec.platform}"


# Per field of the plan, in the order in which they are resolved: implementations in the order of preference. The
# dtype between the ops comes first, as the others have to take it.
_CANDIDATES: dict[str, dict[str, _Candidate]] = {
    "activations": {"bfloat16": _Candidate(_bf16_activations_refusal, _bf16_activations_drawback)},
    "linear_cross_entropy": {
        "cpu": _Candidate(_cpu_refusal),
        "mosaic": _Candidate(_mosaic_products_refusal),
        "triton": _Candidate(_triton_refusal),
        "xla": _Candidate(_scan_refusal),
    },
    "attention": {
        "cpu": _Candidate(_cpu_refusal),
        "mosaic": _Candidate(_mosaic_attention_refusal, _mosaic_attention_drawback),
        "cudnn": _Candidate(_cudnn_refusal),
        "xla": _Candidate(),
    },
    "dense": {
        "cpu": _Candidate(_cpu_refusal),
        "xla": _Candidate(_bf16_products_refusal),
        "fp8": _Candidate(_fp8_refusal, _fp8_drawback, tunable=False),  # other numbers, see `fp8`
    },
    "norm": {
        "cpu": _Candidate(_cpu_refusal),
        "triton": _Candidate(_triton_norm_refusal),
        "mosaic": _Candidate(_mosaic_norm_refusal),
        "xla": _Candidate(drawback=_xla_norm_drawback),
    },
    "embedding": {"cpu": _Candidate(_cpu_embedding_refusal)},
    "dropout": {"hash": _Candidate(_no_dropout_refusal, _hash_drawback)},
    "optimizer": {"cpu": _Candidate(_cpu_optimizer_refusal)},
    "qat": {"round": _Candidate(drawback=_qat_drawback)},
    "dispatch": {"scan": _Candidate(_several_steps_refusal, _several_steps_drawback)},
}


def supported(op: str, spec: Spec) -> list[str]:
    """The implementations of `op` that can take the work, its reference first."""
    return [_reference(op), *(name for name, candidate in _CANDIDATES[op].items() if candidate.refusal(spec) is None)]


def tunable(op: str, spec: Spec) -> list[str]:
    """Those of `supported` among which speed decides."""
    return [name for name in supported(op, spec) if name == _reference(op) or _CANDIDATES[op][name].tunable]


def resolve(wanted: Wishes, *, spec: Spec, lookup: Lookup | None = None) -> Resolution:
    """Turns wishes into a plan for `spec`.

    Args:
      wanted: op name -> 'off' (the reference), 'auto' (what `lookup` knows, else the first implementation in a
        fixed order that supports the work) or the name of an implementation. An op that is not named is off.
      spec: the work and the machine; `activations` is set here.
      lookup: choices of before, see `tuning_cache`. One that cannot take the work any more is passed over.

    Raises:
      ConfigError: an unknown op or implementation, or a named one that cannot take the work, with the reason.
    """
    if unknown := sorted(set(wanted) - set(_CANDIDATES)):
        raise ConfigError(f"optimizations.{unknown[0]}: no such op; there are {sorted(_CANDIDATES)}")
    plan, reasons = KernelPlan(), {}
    for op in _CANDIDATES:
        name, reasons[op] = _resolve_op(op, wanted, spec, lookup)
        plan = dataclasses.replace(plan, **{op: name})
        spec = dataclasses.replace(spec, activations=plan.activations)
    return Resolution(plan, reasons)


def _resolve_op(op: str, wanted: Wishes, spec: Spec, lookup: Lookup | None) -> tuple[str, str]:
    candidates, wish = _CANDIDATES[op], wanted.get(op, "off")
    if wish == "off":
        return _reference(op), "off"
    if wish == "auto":
        return _automatic(op, wanted, spec, lookup(op, spec) if lookup is not None else None)
    if wish not in candidates:
        raise ConfigError(
            f"optimizations.{op} = {wish!r}: not an implementation; use 'off', 'auto' or one of {sorted(candidates)}"
        )
    if (reason := candidates[wish].refusal(spec)) is not None:
        raise ConfigError(f"optimizations.{op} = {wish!r}: {reason}; use 'auto' or 'off'")
    return wish, "asked for"


def _automatic(op: str, wanted: Wishes, spec: Spec, known: Choice | None) -> tuple[str, str]:
    reasons_against = {
        name: candidate.refusal(spec) or candidate.drawback(spec, wanted) for name, candidate in _CANDIDATES[op].items()
    }
    usable = {name for name, reason in reasons_against.items() if reason is None}
    if known is not None and known.implementation in {*usable, _reference(op)}:
        return known.implementation, known.reason
    refusals: list[str] = []
    for name, reason in reasons_against.items():
        if reason is None:
            return name, "; ".join(["auto: first in order that this machine supports", *refusals])
        refusals.append(f"not {name}: {reason}")
    return _reference(op), "; ".join(refusals)


def _reference(op: str) -> str:
    return getattr(KernelPlan(), op)
