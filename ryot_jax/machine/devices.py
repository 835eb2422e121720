"""The devices that JAX computes on, and JAX's compilation cache on disk.

`kernels` chooses the kernels for a device, `training` divides the work over devices.
"""

import dataclasses
import hashlib
from pathlib import Path

import jax
import jaxlib

from ryot_jax.machine.processor import fingerprint


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of JAX's default backend.

    Attributes:
      platform: 'cpu', 'gpu' or 'tpu'.
      kind: the vendor's name, such as 'cpu' or 'NVIDIA H100 80GB HBM3'.
      local_count: devices of this process.
      global_count: devices of all processes.
      process_index: this process among all, from 0.
      process_count: number of processes.
      compute_capability: such as '9.0' on an NVIDIA GPU; on other devices whatever JAX reports, or ''.
    """

    platform: str
    kind: str
    local_count: int
    global_count: int
    process_index: int
    process_count: int
    compute_capability: str = ""

    @property
    def independent_count(self) -> int:
        """Local devices with peaks of their own: simulated devices of one CPU share them, so they count as one."""
        return 1 if self.platform == "cpu" else self.local_count


def describe_devices() -> Devices:
    """Describes the devices of JAX's default backend, starting it if necessary."""
    device = jax.local_devices()[0]
    return Devices(
        platform=device.platform,
        kind=device.device_kind,
        local_count=jax.local_device_count(),
        global_count=jax.device_count(),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        compute_capability=str(getattr(device, "compute_capability", "")),
    )


def enable_compilation_cache(cache_root: Path) -> Path:
    """Enables JAX's compilation cache on disk; call it before making any array.

    Args:
      cache_root: the folder of all caches. Programs go into a subfolder for each jaxlib version and processor, as a
        CPU program may use instructions that another machine lacks.

    Returns:
      The folder in use; JAX creates it at the first write, and only warns where it cannot.
    """
    machine = hashlib.sha256(fingerprint().encode()).hexdigest()[:12]
    folder = cache_root / "xla" / f"{jaxlib.__version__}-{machine}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder
