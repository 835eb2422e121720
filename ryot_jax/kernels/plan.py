"""Which implementation each op runs with, and why.

Wishes (`'off'`, `'auto'` or a name per op) and a description of the work go in; a plan and the reasons come
out. A wish that cannot be met raises: nothing falls back in silence.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping

from ryot_jax.kernels import cpu
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """The implementation of each op; the default is the reference everywhere (the baseline)."""

    linear_cross_entropy: str = "reference"
    attention: str = "reference"
    dense: str = "reference"


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


@dataclasses.dataclass(frozen=True)
class Resolution:
    """A plan, and for each op the sentence that says why it came out so."""

    plan: KernelPlan
    reasons: dict[str, str]


def _cpu_refusal(spec: Spec) -> str | None:
    if spec.platform != "cpu":
        return f"the C++ kernels run on the CPU, not on {spec.platform}"
    if spec.compute_dtype != "float32":
        return f"the C++ kernels compute in float32, not in {spec.compute_dtype}"
    if spec.n_devices > 1:
        # The partitioner cannot split a custom call: it would gather the whole batch on every device.
        return f"the C++ kernels cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    return cpu.unavailable_reason()


def _scan_refusal(spec: Spec) -> str | None:
    if spec.n_devices > 1:
        # Its chunks lie one after the other on the axis that is sharded: each device would wait for the others.
        return f"a scan over rows cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    return None


def _anywhere(spec: Spec) -> str | None:
    del spec
    return None


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this machine's CPU as Linux names them; empty where they cannot be read."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


def _bf16_refusal(spec: Spec) -> str | None:
    if spec.platform != "cpu":
        return f"on {spec.platform} model.compute_dtype decides the products' dtype"
    if spec.compute_dtype != "float32":
        return f"the model computes in {spec.compute_dtype} already"
    if "avx512_bf16" not in cpu_flags():
        return "this CPU has no AVX512-BF16, and bfloat16 products are slower than float32 without it"
    return None


# Per op, in the order of preference: implementation -> why it cannot take the work (None: it can).
_CANDIDATES: dict[str, dict[str, Callable[[Spec], str | None]]] = {
    "linear_cross_entropy": {"cpu": _cpu_refusal, "xla": _scan_refusal},
    "attention": {"cpu": _cpu_refusal, "xla": _anywhere},
    "dense": {"xla_bf16": _bf16_refusal},
}


def _resolve_op(op: str, wish: str, spec: Spec) -> tuple[str, str]:
    candidates = _CANDIDATES[op]
    if wish == "off":
        return "reference", "off"
    if wish == "auto":
        refusals: list[str] = []
        for name, refusal in candidates.items():
            if (reason := refusal(spec)) is None:
                return name, "; ".join(["auto: first in order that this machine supports", *refusals])
            refusals.append(f"not {name}: {reason}")
        return "reference", "; ".join(refusals)
    if wish not in candidates:
        raise ConfigError(
            f"optimizations.{op} = {wish!r}: not an implementation; use 'off', 'auto' or one of {sorted(candidates)}"
        )
    if (reason := candidates[wish](spec)) is not None:
        raise ConfigError(f"optimizations.{op} = {wish!r}: {reason}; use 'auto' or 'off'")
    return wish, "asked for"


def resolve(wanted: Mapping[str, str], *, spec: Spec) -> Resolution:
    """Turns wishes into a plan for `spec`.

    Args:
      wanted: op name -> 'off' (the reference), 'auto' (the first implementation in a fixed order that
        supports the work) or the name of an implementation. An op that is not named is off.
      spec: the work and the machine.

    Raises:
      ConfigError: an unknown op or implementation, or a named one that cannot take the work, with the reason.
    """
    if unknown := sorted(set(wanted) - set(_CANDIDATES)):
        raise ConfigError(f"optimizations.{unknown[0]}: no such op; there are {sorted(_CANDIDATES)}")
    resolved = {op: _resolve_op(op, wanted.get(op, "off"), spec) for op in _CANDIDATES}
    return Resolution(
        plan=KernelPlan(**{op: name for op, (name, _) in resolved.items()}),
        reasons={op: reason for op, (_, reason) in resolved.items()},
    )
