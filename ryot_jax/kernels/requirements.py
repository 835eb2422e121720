"""Requirements that C++ and Pallas implementations of any op place on work and machine."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Spec
from ryot_jax.kernels.gpu import pallas


def cpp_refusal(spec: Spec) -> str | None:
    """The reason why C++ kernels cannot take the work in the dtypes of a transformer block; None: they can."""
    return _cpp_refusal(spec, spec.compute_dtype, spec.dtype)


def cpp_weights_refusal(spec: Spec) -> str | None:
    """The reason why C++ kernels on weights and gradients, always float32, cannot take the work; None: they can."""
    return _cpp_refusal(spec, "float32")


def _cpp_refusal(spec: Spec, *dtypes: str) -> str | None:
    if spec.platform != "cpu":
        return f"the C++ kernels run on the CPU, not on {spec.platform}"
    if spec.n_devices > 1:
        # The partitioner cannot split a custom call: it would gather the whole batch on every device.
        return f"the C++ kernels cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    return next((reason for dtype in dtypes if (reason := cpu.unavailable_reason(dtype)) is not None), None)


def cpp_dtypes(dtypes: frozenset[np.dtype[Any]]) -> None:
    """Check the dtypes of operands and results of a C++ kernel.

    Raises:
      TypeError: a dtype is neither float32 nor bfloat16.
      NotImplementedError: the C++ kernels cannot run on this machine, or not in this dtype.
    """
    if others := [str(dtype) for dtype in dtypes if dtype not in (jnp.float32, jnp.bfloat16)]:
        raise TypeError(f"implementation='cpu' takes float32 and bfloat16; got {sorted(others)}")
    for dtype in dtypes:
        if reason := cpu.unavailable_reason(str(dtype)):
            raise NotImplementedError(reason)


def pallas_refusal(backend: str, spec: Spec) -> str | None:
    """The reason why kernels of `backend`, 'triton' or 'mosaic', cannot take the work; None: they can."""
    if spec.platform != "gpu":
        return f"{backend} kernels run on NVIDIA GPUs, not on {spec.platform}"
    if spec.n_devices > 1:
        return f"{backend} kernels cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    return pallas.refusal(backend, spec.compute_capability)


def mosaic_products_refusal(spec: Spec) -> str | None:
    """The reason why matrix products in Mosaic cannot take the work; None: they can."""
    if spec.dtype not in ("bfloat16", "float16"):
        return f"mosaic's matrix products take bfloat16 and float16, not {spec.dtype}"
    return pallas_refusal("mosaic", spec)
