"""Options of XLA's compiler that differ by platform or by jaxlib.

Who compiles with them, and what for, is said where they are used.
"""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# As a compiler option, jaxlib takes an empty list or full names of fusion types; '-reduce' only in XLA_FLAGS.
_YNN_OFF: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def without_ynn(platform: str | None = None) -> dict[str, str | bool] | None:
    """Compiler options that turn the YNNPACK fusions of XLA:CPU off; None where there are none to turn off.

    Args:
      platform: of the device that a program is for; the default backend's when None.
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


@contextlib.contextmanager
def counted_cache_hits() -> Iterator[list[str]]:
    """Collects an event for each program that JAX takes from its cache of compiled programs meanwhile."""
    hits: list[str] = []

    def note(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(note)
