"""The declaration of an optimization: made once, with all that choosing, tuning, proving and documenting it needs.

An op of `kernels.ops` is a folder: `__init__.py` declares the op, `api.py` holds its public functions, `_benchmark.py`
the arrays that it is measured with, and every other module whose name has no underscore in front is an implementation
of that name. Nothing else lists ops or implementations, and nothing here imports JAX: names are found without
importing what bears them.
"""

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ryot_jax.runtime.hlo import Program

if TYPE_CHECKING:
    import numpy as np

    from ryot_jax.kernels.choice.benchmark import Benchmark

Equivalence = Literal["bitwise", "allclose", "statistical"]
"""A promise against the reference: the same numbers; these but for rounding in the dtype between the ops; or other
rounding, and a training run of the same quality."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """The work and the machine that implementations are chosen for. Sizes are those of one training step.

    Attributes:
      platform: 'cpu', 'gpu' or 'tpu'.
      n_devices: devices that the compiler has to partition one program over: 1 under `shard_map` and `pmap`, where each
        device has a program of its own.
      compute_dtype: the model's.
      rows: batch times sequence length.
      d_model: width of the residual stream.
      d_ff: width between the products of the MLP.
      vocab_size: classes of the last product.
      seq_len: length of a sequence.
      n_heads: heads of attention.
      mlp: 'gelu', 'swiglu' or 'relu2'.
      norm: 'layer' or 'rms'; models of the latter have no biases.
      rotary: whether positions rotate queries and keys.
      dropout: probability.
      compute_capability: of an NVIDIA GPU, such as '9.0'.
      activations: dtype of the arrays between the ops of a block, once that is resolved; '': the compute dtype.
      refusals: optimization -> why the caller cannot have any implementation of it but the reference.
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
        """Dtype of the arrays between the ops of a block."""
        return self.activations or self.compute_dtype


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The finding of a probe: whether the optimization is on, and the finding in words for people."""

    active: bool
    text: str


Probe = Callable[[Program, Program, Spec], Evidence]
"""(program of the arm, program of the baseline, sizes) -> Evidence."""

Wishes = Mapping[str, str]
"""Optimization -> 'off', 'auto' or the name of an implementation."""


def _none(*_: Any) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to do what an optimization does. The defaults are those of a reference.

    Attributes:
      function: called by the op's public function, in the form that the op asks for.
      equivalence: its promise against the reference.
      probe: proof from a compiled program that it is on; None: it is the reference.
      refusal: why it cannot take the work; None: it can.
      drawback: why 'auto' never takes it though it could take the work, given all wishes: its numbers are others, or
        not to be trusted here, or there is more to it than `Spec` tells. None: there is no such reason.
      doubt: why 'auto' takes it only where a measurement of this machine chose it, given all wishes: it may not be
        faster. None: there is no such reason.
      require: raises for dtypes of float operands and outcomes that it cannot take, or that it cannot take here.
      where: the machines or models that it is for, for the documentation; Markdown, may be empty.
      rounding: dtype that products round their operands to; '': the one between the ops.
      is_tunable: whether speed may decide for it: its numbers are the reference's but for rounding.
      is_compiled_by_xla: whether XLA alone compiles it. Another compiler may hang or end the process, and is tried in a
        process of its own first.
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
    """The implementations in the modules of a package, by module name: the reference, then in order of preference.

    A module is imported when its implementation is asked for; its `IMPLEMENTATION` is it.

    Args:
      package: name of the package.
      order: names in order of preference; modules that are not named come after them.

    Raises:
      ValueError: `order` names a module that is not there (when the names are first asked for).
    """

    def __init__(self, package: str, order: tuple[str, ...] = ()):
        self._package, self._order = package, order

    def __getitem__(self, name: str) -> Implementation:
        """The implementation of this name."""
        if name not in self._names():
            raise KeyError(name)
        implementation: Implementation = importlib.import_module(f"{self._package}.{name}").IMPLEMENTATION
        return implementation

    def __iter__(self) -> Iterator[str]:
        """The names; nothing is imported."""
        return iter(self._names())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        """Whether there is such a module; nothing is imported."""
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
    """Something that a training step can have on, in one of several implementations.

    Attributes:
      name: its key in plans and in results, and its field of `optimizations` in a config.
      description: what it does, in one line.
      implementations: by name, the reference first, then in order of preference.
      place: rank in plans and tables; those of one rank are in alphabetical order.
      note: more of the description, for the documentation; Markdown.
      exclusion: why a training with this config cannot have it in any implementation but the reference; the config's
        sections by name. None: it can.
      sets: field of `Spec` that is the choice, for optimizations that are resolved after it; '': none.
      plan_without: name of the plan in which whole steps are timed with the reference in its place, where no benchmark
        of its own measures it; '': nothing measures it.
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
        """Name of the implementation that the baseline has."""
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
        """The work as the choice of this implementation leaves it."""
        change: dict[str, Any] = {self.sets: name} if self.sets else {}
        return dataclasses.replace(spec, **change)

    def implementation(self, plan: Mapping[str, str]) -> str:
        """Name of the implementation that `plan` uses, as it is shown to people."""
        return shown(plan[self.name])

    def promise(self, plan: Mapping[str, str]) -> Equivalence:
        """The promise of the implementation that `plan` uses; the reference is itself."""
        name = plan[self.name]
        return self.implementations[name].equivalence if name in self.alternatives else "bitwise"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Op(Optimization):
    """An operation of `kernels.ops`: an optimization with public functions.

    Attributes:
      package: of the op: `__name__` in its `__init__.py`.
      functions: the public functions of its `api` module, which `ryot_jax.kernels` exports.
      is_on_activations: whether it reads or writes the arrays between the ops of a block in their dtype, and its C++
        kernels with it.
      is_benchmarked: whether `_benchmark.benchmark(spec, rng)` gives arrays and a function to measure it with.
    """

    package: str
    functions: tuple[str, ...]
    is_on_activations: bool = False
    is_benchmarked: bool = True

    @property
    def api(self) -> Any:
        """The module of its public functions; imports JAX."""
        return importlib.import_module(f"{self.package}.api")

    def benchmark(self, spec: Spec, rng: "np.random.Generator") -> "Benchmark":
        """The op on random arrays of the sizes of `spec`."""
        module = importlib.import_module(f"{self.package}._benchmark")
        benchmark: Benchmark = module.benchmark(spec, rng)
        return benchmark


def shown(implementation: str) -> str:
    """The name of an implementation for people: no dtype between the ops is the model's own."""
    return implementation or "as the model"
