"""Declarations of optimizations: one each, with all that choosing, tuning, proving and documenting it needs.

An op of `kernels.ops` is a folder: `__init__.py` declares the op, `api.py` holds its public functions, `_benchmark.py`
the arrays that it is measured with, and every other module without a leading underscore is an implementation of that
name. Nothing else lists ops or implementations, and nothing here imports JAX: names are found without importing the
modules.
"""

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ryot_jax.runtime.hlo import Program

if TYPE_CHECKING:
    import jax
    import numpy as np

Equivalence = Literal["bitwise", "allclose", "statistical"]
"""A promise relative to the reference: identical numbers; equal up to rounding in the dtype between the ops; or other
rounding, with a training run of the same quality."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """The work and the machine that implementations are chosen for. Sizes are those of one training step.

    Attributes:
      platform: 'cpu', 'gpu' or 'tpu'.
      n_devices: devices that the compiler has to partition one program over: 1 under `shard_map` and `pmap`, where each
        device has its own program.
      compute_dtype: dtype that the model computes in.
      rows: batch times sequence length.
      d_model: width of the residual stream.
      d_ff: hidden width of the MLP.
      vocab_size: classes of the output projection.
      seq_len: length of a sequence.
      n_heads: number of attention heads.
      mlp: 'gelu', 'swiglu' or 'relu2'.
      norm: 'layer' or 'rms'; models with the latter have no biases.
      rotary: whether positions rotate queries and keys.
      dropout: dropout probability.
      compute_capability: compute capability of an NVIDIA GPU, such as '9.0'.
      activations: dtype of the arrays between the ops of a transformer block, once resolved; '': the compute dtype.
      refusals: optimization -> reason why the caller can use no implementation of it but the reference.
    """

    platform: str
    n_devices: int
    compute_dtype: str
    rows: int
    d_model: int
    d_ff: int
    vocab_size: int
    seq_len: int
    n_heads: int
    mlp: str = "gelu"
    norm: str = "layer"
    rotary: bool = False
    dropout: float = 0.0
    compute_capability: str = ""
    activations: str = ""
    refusals: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def dtype(self) -> str:
        """Dtype of the arrays between the ops of a transformer block."""
        return self.activations or self.compute_dtype


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The finding of a probe: whether the optimization is on, and a sentence for the report."""

    active: bool
    text: str


Probe = Callable[[Program, Program, Spec], Evidence]
"""Signature of a probe: (program of the arm, program of the baseline, sizes) -> Evidence."""

Wishes = Mapping[str, str]
"""Requested implementations: optimization -> 'off', 'auto' or the name of an implementation."""


def _none(*_: Any) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One implementation of an optimization. The defaults are those of a reference.

    Attributes:
      function: called by the op's public function, with the signature that the op defines.
      equivalence: its promise relative to the reference.
      probe: proof from a compiled program that it is on; None: it is the reference.
      refusal: (work) -> reason why it cannot run; None: it can.
      drawback: (work, wishes) -> reason why 'auto' never takes it although it could run: its numbers differ by more
        than rounding, or cannot be trusted here, or `Spec` does not tell enough. None: no such reason.
      doubt: (work, wishes) -> reason why 'auto' takes it only if a measurement on this machine chose it: it may not be
        faster. None: no such reason.
      require: raises for dtypes of float operands and results that it does not support, in general or on this machine.
      where: the machines or models that it is for, for the documentation; Markdown, may be empty.
      rounding: dtype that products round their operands to; '': the dtype between the ops.
      is_tunable: whether speed may decide for it, as it equals the reference up to rounding.
      is_compiled_by_xla: whether XLA alone compiles it. Another compiler may hang or crash, and is tried in a separate
        process first.
    """

    function: Any = None
    equivalence: Equivalence = "bitwise"
    probe: Probe | None = None
    refusal: Callable[[Spec], str | None] = _none
    drawback: Callable[[Spec, Wishes], str | None] = _none
    doubt: Callable[[Spec, Wishes], str | None] = _none
    require: "Callable[[frozenset[np.dtype[Any]]], None]" = _none
    where: str = ""
    rounding: str = ""
    is_tunable: bool = True
    is_compiled_by_xla: bool = False


class Modules(Mapping[str, Implementation]):
    """Implementations in the modules of a package, by module name: the reference, then in order of preference.

    A module is imported when its implementation is first used; it defines the implementation as `IMPLEMENTATION`.

    Args:
      package: name of the package.
      order: names in order of preference; modules not named come after them.

    Raises:
      ValueError: `order` names a module that does not exist (raised when the names are first read).
    """

    def __init__(self, package: str, order: tuple[str, ...] = ()):
        self._package, self._order = package, order

    def __getitem__(self, name: str) -> Implementation:
        """Import and return the implementation called `name`."""
        if name not in self._names():
            raise KeyError(name)
        implementation: Implementation = importlib.import_module(f"{self._package}.{name}").IMPLEMENTATION
        return implementation

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names; nothing is imported."""
        return iter(self._names())

    def __len__(self) -> int:
        """The number of implementations."""
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        """Whether the package has a module called `name`; nothing is imported."""
        return name in self._names()

    def _names(self) -> tuple[str, ...]:
        found = {module.name for module in pkgutil.iter_modules(sys.modules[self._package].__path__)}
        found = {name for name in found if not name.startswith("_")} - {"api"}
        first = ("reference", *self._order)
        if missing := set(first) - found:
            raise ValueError(f"{self._package} has no implementation {', '.join(sorted(missing))}")
        return (*first, *sorted(found - set(first)))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Optimization:
    """A switchable property of the training step with several implementations.

    Attributes:
      name: its key in plans and in results, and its field of `optimizations` in a config.
      description: its effect, in one line.
      implementations: by name, the reference first, then in order of preference.
      place: rank in plans and tables; equal ranks are in alphabetical order.
      note: continuation of the description, for the documentation; Markdown.
      exclusion: (config, its sections by name) -> reason why a training with it must use the reference; None: it need
        not.
      sets: field of `Spec` that receives the choice, for optimizations that are resolved later; '': none.
      plan_without: name of the plan in which whole steps are timed with the reference in its place, for an
        optimization without its own benchmark; '': nothing measures it.
    """

    name: str
    description: str
    implementations: Mapping[str, Implementation]
    place: int = 100
    note: str = ""
    exclusion: Callable[[Mapping[str, Any]], str | None] = _none
    sets: str = ""
    plan_without: str = ""

    @property
    def reference(self) -> str:
        """Name of the implementation that the baseline uses."""
        return next(iter(self.implementations))

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Names of all implementations but the reference, in order of preference."""
        return tuple(self.implementations)[1:]

    @property
    def switch(self) -> str:
        """The config field that turns it on and off."""
        return f"optimizations.{self.name}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of `switch`."""
        return ("off", "auto", *self.alternatives)

    def applied(self, spec: Spec, name: str) -> Spec:
        """The work, with this implementation recorded in the field `sets`, if any."""
        change: dict[str, Any] = {self.sets: name} if self.sets else {}
        return dataclasses.replace(spec, **change)

    def implementation(self, plan: Mapping[str, str]) -> str:
        """Display name of the implementation that `plan` uses."""
        return shown(plan[self.name])

    def promise(self, plan: Mapping[str, str]) -> Equivalence:
        """The promise of the implementation that `plan` uses; the reference promises identical numbers."""
        name = plan[self.name]
        return self.implementations[name].equivalence if name in self.alternatives else "bitwise"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """An op on the arrays of a training step.

    Attributes:
      function: (implementation, *differentiable, *others) -> an output or a tuple of them, all of float dtypes.
      differentiable: operands whose gradients are computed.
      others: operands without gradients.
      rounding: dtype that the results are rounded to; '': the dtype between the ops.
      error: (outputs, gradients) -> error, for random results that have no reference values; else None.
      largest_error: the largest value of `error` that passes.
    """

    function: Callable[..., Any]
    differentiable: "tuple[jax.Array, ...]"
    others: "tuple[jax.Array, ...]" = ()
    rounding: str = ""
    error: Callable[[Any], float] | None = None
    largest_error: float | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Op(Optimization):
    """An operation of `kernels.ops`: an optimization with public functions.

    Attributes:
      package: the op's package: `__name__` in its `__init__.py`.
      functions: the public functions of its `api` module, which `ryot_jax.kernels` exports.
      is_on_activations: whether it, and its C++ kernels, read or write the arrays between the ops of a transformer
        block in their dtype.
      is_benchmarked: whether `_benchmark.benchmark(spec, rng)` returns arrays and a function to measure it with.
    """

    package: str
    functions: tuple[str, ...]
    is_on_activations: bool = False
    is_benchmarked: bool = True

    @property
    def api(self) -> Any:
        """The module with the op's public functions; imports JAX."""
        return importlib.import_module(f"{self.package}.api")

    def benchmark(self, spec: Spec, rng: "np.random.Generator") -> Benchmark:
        """The op's benchmark on random arrays of the sizes in `spec`."""
        module = importlib.import_module(f"{self.package}._benchmark")
        benchmark: Benchmark = module.benchmark(spec, rng)
        return benchmark


def shown(implementation: str) -> str:
    """The display name of an implementation; an empty name stands for the model's own dtype between the ops."""
    return implementation or "as the model"
