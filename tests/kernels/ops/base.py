"""Every implementation of every op, as tests see it: found in the catalogue, run on this machine where that can be.

A test that takes `implementation` from here holds for implementations that do not exist yet. GPU kernels in Triton are
interpreted; other GPU kernels have tests of their own.
"""

import contextlib
import dataclasses
import functools

import jax
import pytest

from ryot_jax.kernels.catalogue import op, ops
from ryot_jax.kernels.choice.benchmark import benchmark
from ryot_jax.kernels.declaration import Op, Spec
from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.resolution import refusal

# Odd sizes, such that a row of heads, of a panel of columns or of a chunk is full in none of them.
ODD = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=39, d_model=18, d_ff=35, vocab_size=67, seq_len=13,
    n_heads=2, dropout=0.25,
)  # fmt: skip
# As small as they can be, of RMS norms and gated networks; and of several chunks and panels.
LEAST = dataclasses.replace(
    ODD, rows=1, d_model=2, d_ff=3, vocab_size=2, seq_len=1, n_heads=1, mlp="swiglu", norm="rms", dropout=0.5
)
LARGE = dataclasses.replace(ODD, rows=600, d_model=66, d_ff=131, vocab_size=257, seq_len=75, n_heads=3, mlp="relu2")
SPECS = {"odd": ODD, "least": LEAST, "large": LARGE}


def implementations(*, of_reference: bool = True) -> list[tuple[str, str]]:
    """(op, implementation) of all ops with a benchmark."""
    return [
        (each.name, name)
        for each in ops()
        if each.is_benchmarked
        for name in each.implementations
        if of_reference or name != each.reference
    ]


def names(of: str) -> list[str]:
    """The implementations of an op that this machine's processor can run, as XLA compiles them or in C++."""
    declared = op(of).implementations
    return [name for name, implementation in declared.items() if implementation.is_compiled_by_xla or name == "cpu"]


def rounding(of: str, name: str) -> str:
    """Dtype that an implementation's products round to; '': the one of its operands."""
    return op(of).implementations[name].rounding


@dataclasses.dataclass(frozen=True)
class Case:
    """An implementation on the arrays of its op's benchmark."""

    op: Op
    name: str
    spec: Spec

    def __post_init__(self):
        reason = refusal(self.op, self.name, self.spec)
        is_xla = self.op.implementations[self.name].is_compiled_by_xla
        if reason and not is_xla and not self.is_interpreted:
            pytest.skip(reason)

    @property
    def is_interpreted(self) -> bool:
        return self.name == "triton"

    @functools.cached_property
    def arrays(self):
        return benchmark(self.op, self.spec)

    def function(self, *operands):
        """The outcomes of the op for differentiable operands; the others are the benchmark's."""
        return jax.tree.leaves(self.arrays.function(self.name, *operands, *self.arrays.others))

    def context(self):
        """Whatever is traced has to be traced in it."""
        return pallas.interpreted() if self.is_interpreted else contextlib.nullcontext()

    @property
    def rounding(self) -> str:
        """Dtype whose rounding its numbers have."""
        return self.op.implementations[self.name].rounding or self.arrays.rounding or self.spec.dtype
