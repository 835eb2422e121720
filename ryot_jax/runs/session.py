"""A session: one config on this machine, with everything derived from the two.

`open_session` is the only place that enables caches, queries devices, checks the config against them, resolves the
model and chooses kernels. A run (`run.py`) adds text and files.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from ryot_jax.comparison.arms import variants
from ryot_jax.comparison.variants import Variant
from ryot_jax.config import validate
from ryot_jax.data.cache import root as cache_root
from ryot_jax.kernels import Spec, cpu
from ryot_jax.kernels.choice.cache import Entry, TuningCache
from ryot_jax.kernels.resolution import Choice, Lookup
from ryot_jax.machine.devices import Devices, describe_devices, enable_compilation_cache
from ryot_jax.model import ModelConfig
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan, Resolution, resolve
from ryot_jax.runtime.errors import CheckpointError, DataError
from ryot_jax.training.setup import kernel_spec

# Fields of `training` that are numbers in a step or about how many there are, so that its time does not depend on them.
_NUMBERS = ("epochs", "steps_per_epoch", "learning_rate", "b1", "b2", "weight_decay", "warmup_steps", "schedule")


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """A config on this machine. Properties that are slow or can fail are computed once, on first use.

    Attributes:
      config: the resolved config.
      devices: devices of JAX's default backend.
      log: called with one line of progress.
      kernels_before: lookup of the resumed run's kernels; None: 'auto' takes the measured ones.
    """

    config: ConfigDict
    devices: Devices
    log: Callable[[str], None]
    kernels_before: Lookup | None = None

    @functools.cached_property
    def model(self) -> ModelConfig:
        """The model section, with the compute dtype resolved for this machine."""
        return from_config(self.config.model, self.devices.platform)

    @functools.cached_property
    def spec(self) -> Spec:
        """The sizes of a training step, from which kernels are chosen."""
        return kernel_spec(self.config, self.model, self.devices)

    @functools.cached_property
    def tuning_cache(self) -> TuningCache:
        """The measured kernels on disk; in memory alone, with a line in the log, if the file cannot be made."""
        try:
            return TuningCache(cache_root(self.config.data.cache_dir), self.log)
        except DataError as error:
            self.log(f"tuned kernels: {error}")
            return TuningCache(None, self.log)

    @property
    def lookup(self) -> Lookup:
        """The lookup that decides for 'auto' before the static order does."""
        return self.kernels_before or self._measured

    @property
    def raced(self) -> Entry | None:
        """The plan that won by whole steps on this machine, in a race or by `ryot tune`; None: unknown or not asked."""
        if self.config.runtime.tune == "off":
            return None
        return self.tuning_cache.read(whole_step(self.config), self.spec)

    def limit_workers(self) -> None:
        """Let the C++ kernels of this process use as many threads as the plan that won did, if it is the one in use."""
        raced = self.raced
        used = self.resolve().plan
        wins = raced is not None and all(used[name] == chosen for name, chosen in raced.plan.items())
        cpu.limit_workers((raced.workers or None) if raced is not None and wins else None)

    def _measured(self, op: str, spec: Spec) -> Choice | None:
        """The choice by whole steps, of the last race or `ryot tune`; else by the measurement of this op."""
        raced = self.raced
        if raced is not None and op in raced.plan:
            return Choice(raced.plan[op], f"measured: {raced.summary}, {raced.date}")
        return self.tuning_cache.lookup(op, spec)

    def resolve(self, **changes: str) -> Resolution:
        """Resolves the config's switches to kernels, with some of the switches changed."""
        return resolve({**self.config.optimizations, **changes}, spec=self.spec, lookup=self.lookup)

    def resolve_unmeasured(self, **changes: str) -> Resolution:
        """Resolves the config's switches by the static order alone, without measured kernels."""
        return resolve({**self.config.optimizations, **changes}, spec=self.spec)

    @functools.cached_property
    def variants(self) -> tuple[tuple[Variant, ...], Mapping[str, Resolution]]:
        """The variants that the config requests, the baseline first, and the resolution of each by its name."""
        return variants(self.config, self.spec, self.lookup)


def whole_step(config: ConfigDict) -> str:
    """The name of a whole training step in the tuning cache: all that its time depends on and `Spec` does not hold."""
    training = {name: value for name, value in config.training.to_dict().items() if name not in _NUMBERS}
    parts = (config.model.to_dict(), training, config.optimizations.to_dict())
    return f"training step of {json.dumps(parts, sort_keys=True)}"


def open_session(
    config: ConfigDict,
    log: Callable[[str], None],
    *,
    trains: bool = False,
    cached_programs: bool = True,
    manifest: Path | None = None,
) -> Session:
    """Opens a session; call it before making any JAX array.

    Args:
      config: a config that is validated except for the number of devices.
      log: called with one line of progress.
      trains: whether to require that the devices can share a batch.
      cached_programs: whether programs may come from the cache on disk, if the config enables it.
      manifest: manifest of the run whose kernels to keep; None or a missing file: kernels are resolved anew.

    Raises:
      ConfigError: the devices cannot share a batch.
      CheckpointError: the manifest is damaged.
    """
    if cached_programs and config.runtime.compilation_cache:
        enable_compilation_cache(cache_root(config.data.cache_dir))
    devices = describe_devices()
    if trains:
        validate(config, device_count=devices.local_count)
    kernels = kernels_of(manifest) if manifest is not None and manifest.is_file() else None
    return Session(config, devices, log, kernels)


def kernels_of(manifest: Path) -> Lookup:
    """A lookup of the kernels that a run's manifest records, and of nothing else.

    Raises:
      CheckpointError: the manifest is damaged.
    """
    try:
        arms = json.loads(manifest.read_text(encoding="utf-8"))["kernels"]
        names = {op: str(kernel["implementation"]) for op, kernel in arms.get("optimized", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{manifest} is damaged ({error}), so that the run's kernels are not known; remove it to choose them anew"
        ) from error

    def lookup(op: str, spec: Spec) -> Choice | None:
        # A switch that the version of the manifest did not have was off.
        return Choice(names.get(op, KernelPlan()[op]), "as before the interruption")

    return lookup
