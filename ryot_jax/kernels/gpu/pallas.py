"""What all kernels in Pallas need: whether a device can take them, and their interpretation where none is there.

A kernel that a GPU cannot take must not reach the compiler: Mosaic's ends the process there.
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
    """Kernels that are traced in this context are interpreted, on any device, with detection of races for Mosaic's.

    What was traced and cached outside of the context stays as it was: trace new functions.
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
    """Nothing, where kernels of `backend`, 'triton' or 'mosaic', can run: interpreted, or on such a GPU.

    Under a mesh whose abstract device stands for a GPU of another kind than the one here, nothing is asked: what is
    traced is compiled for a machine that is not this one.

    Raises:
      NotImplementedError: they cannot, with the reason.
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
    """A decorator: calls with the same shapes are traced and lowered once, however many layers a model has.

    Lowering a kernel takes Mosaic a second, and JAX does it again for every call that is not of one jitted function.

    Args:
      static: names of arguments that are no arrays; they are given by keyword.
    """

    def decorate(function: Function) -> Function:
        @functools.partial(jax.jit, static_argnums=0, static_argnames=static)
        def jitted(traced_for: tuple[bool, int], *arguments: Any, **named: Any) -> Any:
            del traced_for  # what a kernel depends on beside its arguments
            return function(*arguments, **named)

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return jitted((is_interpreted(), n_multiprocessors()), *arguments, **named)

        return cast(Function, call)

    return decorate


def refusal(backend: str, compute_capability: str) -> str | None:
    """Why a GPU of this compute capability, such as '9.0', cannot run kernels of `backend`; None: it can."""
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
    """Of CUDA's runtime, such as 13000 for 13.0; None where this process has no NVIDIA GPU."""
    described = getattr(jax.local_devices()[0].client, "platform_version", "")
    found = re.search(r"\bcuda (\d+)", described)
    return int(found[1]) if found else None


def n_multiprocessors() -> int:
    """Of the device that is compiled for; while interpreted a small number, so that blocks take more than one turn."""
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
        mosaic_gpu as plgpu,  # here, where it is in use already: its import takes a second
    )

    if (parameters := getattr(plgpu, "InterpretGPUParams", None)) is None:  # before jax 0.11
        parameters = importlib.import_module("jax._src.pallas.mosaic_gpu.interpret.params").InterpretGPUParams
    return parameters(detect_races=True)
