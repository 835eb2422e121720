"""Options of XLA's compiler that differ by platform or jaxlib version, and counters of compilations."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

# As a compiler option, jaxlib takes an empty list or full names of fusion types; '-reduce' only in XLA_FLAGS.
_YNN_OFF: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def without_ynn(platform: str | None = None) -> dict[str, str | bool] | None:
    """Compiler options that turn off the YNNPACK fusions of XLA:CPU; None if the platform or jaxlib has none.

    Args:
      platform: platform of the program's device; None: that of the default backend.
    """
    platform = jax.default_backend() if platform is None else platform
    if platform != "cpu":
        return None
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(lambda x: x).lower(jnp.zeros(()))
    try:
        lowered.compile(compiler_options=_YNN_OFF)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):  # a jaxlib without YNN fusions
            return None
        raise
    return dict(_YNN_OFF)


def counted_cache_hits() -> contextlib.AbstractContextManager[list[str]]:
    """Yields a list that gets an event for each program that JAX takes from its compilation cache within the block."""
    return _counted(
        "/jax/compilation_cache/cache_hits",
        jax.monitoring.register_event_listener,
        jax.monitoring.unregister_event_listener,
    )


def counted_compilations() -> contextlib.AbstractContextManager[list[str]]:
    """Yields a list that gets an event for each program that XLA compiles within the block, on any thread."""
    return _counted(
        "/jax/core/compile/backend_compile_duration",
        jax.monitoring.register_event_duration_secs_listener,
        jax.monitoring.unregister_event_duration_listener,
    )


@contextlib.contextmanager
def _counted(wanted: str, register: Callable[..., None], unregister: Callable[..., None]) -> Iterator[list[str]]:
    events: list[str] = []

    def note(event: str, *_: object, **__: object) -> None:
        if event == wanted:
            events.append(event)

    register(note)
    try:
        yield events
    finally:
        unregister(note)
