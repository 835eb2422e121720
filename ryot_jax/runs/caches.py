"""The two caches on disk that commands begin with: of compiled programs, and of measured kernels."""

from collections.abc import Callable

from ml_collections import ConfigDict

from ryot_jax.data.cache import root as cache_root
from ryot_jax.kernels.choice.cache import TuningCache
from ryot_jax.machine.devices import enable_compilation_cache
from ryot_jax.runtime.errors import DataError


def use_compilation_cache(config: ConfigDict) -> None:
    """Turns JAX's cache of compiled programs on, if the config wants it; before the first JAX array."""
    if config.runtime.compilation_cache:
        enable_compilation_cache(cache_root(config.data.cache_dir))


def open_tuning_cache(config: ConfigDict, log: Callable[[str], None]) -> TuningCache:
    """The measured kernels on disk; where that cannot be, a cache that forgets, and `log` is told why."""
    try:
        return TuningCache(cache_root(config.data.cache_dir), log)
    except DataError as error:
        log(f"tuned kernels: {error}")
        return TuningCache(None, log)
