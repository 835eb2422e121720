"""Support for all Pallas kernels: whether a device can run them, and their interpretation on machines without one.

A kernel that a GPU cannot run must not reach the compiler: Mosaic's would end the process.
"""

import contextlib
import contextvars
import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax

Function = TypeVar("Function", bound=Callable[..., Any])

MINIMUM = {"triton": 8.0, "mosaic": 9.0}  # compute capability: Ampere's, Hopper's

_INTERPRETED = contextvars.ContextVar("interpreted", default=False)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Interpret the kernels traced in this context, on any device, with race detection for Mosaic's.

    Functions traced and cached outside the context are unaffected: trace new ones.
    """
    token = _INTERPRETED.set(True)
    try:
        yield
    finally:
        _INTERPRETED.reset(token)


def is_interpreted() -> bool:
    """Whether kernels are to be interpreted."""
    return _INTERPRETED.get()


def require(backend: str) -> None:
    """Check that kernels of `backend`, 'triton' or 'mosaic', can run: interpreted, or on a suitable GPU.

    Under a mesh whose abstract device stands for another kind of GPU than the local one, nothing is checked: the traced
    program is compiled for another machine.

    Raises:
      NotImplementedError: they cannot run; the message has the reason.
    """
    if is_interpreted():
        return
    here, abstract = jax.local_devices()[0], jax.sharding.get_abstract_mesh().abstract_device
    if abstract is not None and abstract.platform == "gpu" and abstract.device_kind != here.device_kind:
        return
    if here.platform != "gpu":
        raise NotImplementedError(f"implementation={backend!r} runs on NVIDIA GPUs, not on {here.platform}")
    if (reason := refusal(backend, str(getattr(here, "compute_capability", "")))) is not None:
        raise NotImplementedError(reason)


def lowered_once(*static: str) -> Callable[[Function], Function]:
    """Decorator that traces and lowers calls of equal shapes once, however many layers a model has.

    Mosaic takes a second to lower a kernel, and JAX repeats it for every call that is not of the same jitted function.

    Args:
      static: names of arguments that are not arrays; they are passed by keyword.
    """

    def decorate(function: Function) -> Function:
        @functools.partial(jax.jit, static_argnums=0, static_argnames=static)
        def jitted(traced_for: tuple[bool, int], *arguments: Any, **named: Any) -> Any:
            del traced_for  # the state beside its arguments on which a kernel depends
            return function(*arguments, **named)

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return jitted((is_interpreted(), n_multiprocessors()), *arguments, **named)

        return cast(Function, call)

    return decorate


def refusal(backend: str, compute_capability: str) -> str | None:
    """The reason why a GPU of this compute capability, such as '9.0', cannot run `backend`'s kernels; None: it can."""
    if backend == "triton" and importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return "this version of jax has no Pallas for Triton any more"
    try:
        capability = float(compute_capability)
    except ValueError:
        return f"{backend} kernels run on NVIDIA GPUs; the compute capability of this one is not known"
    least = MINIMUM[backend]
    if capability < least:
        return f"{backend} kernels need compute capability {least} or more, this device has {compute_capability}"
    if backend == "mosaic" and capability >= 10.0:  # wgmma is Hopper's; Blackwell has tcgen05 in its place
        return f"these {backend} kernels are written for compute capability 9, this device has {compute_capability}"
    return None


def cuda_version() -> int | None:
    """Version of the CUDA runtime, such as 13000 for 13.0; None if this process has no NVIDIA GPU."""
    described = getattr(jax.local_devices()[0].client, "platform_version", "")
    found = re.search(r"\bcuda (\d+)", described)
    return int(found[1]) if found else None


def n_multiprocessors() -> int:
    """Multiprocessors of the target device; a small number while interpreted, so that blocks loop more than once."""
    if is_interpreted():
        return 1
    if (device := jax.sharding.get_abstract_mesh().abstract_device) is not None and device.num_cores:
        return int(device.num_cores)
    return int(getattr(jax.local_devices()[0], "core_count", 1))


def mosaic_interpretation() -> Any:
    """The `interpret` argument of a Mosaic kernel."""
    if not is_interpreted():
        return None
    from jax.experimental.pallas import (
        mosaic_gpu as plgpu,  # not at the top: its import takes a second, and callers have loaded it already
    )

    if (parameters := getattr(plgpu, "InterpretGPUParams", None)) is None:  # before jax 0.11
        parameters = importlib.import_module("jax._src.pallas.mosaic_gpu.interpret.params").InterpretGPUParams
    return parameters(detect_races=True)
