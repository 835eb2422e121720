"""Correctness and speed of the kernels on this GPU: one call for everything that needs a GPU.

    python -m experiments.gpu --write
    python -m experiments.gpu --dry_run     # everything on small sizes, Pallas kernels interpreted: no GPU is needed

Correctness of every implementation against float64, forward and backward; then its time beside XLA's, cuDNN's and
PyTorch's at the sizes of gpt2_small and of a wide vocabulary; then the training steps of scaled.py and gpt2_small.py,
baseline and optimized, beside PyTorch's. Programs are interleaved in random order, with 95 % intervals of paired
ratios; PyTorch's kernels are timed in a separate process afterwards. `--torch_python` names a Python that has PyTorch.
About 5 minutes on an H200, most of them compiling.

Goals: linear + cross-entropy within 1.05 times the time of full logits, at an eighth of their memory; attention within
1.05 of cuDNN's, which cuDNN itself meets; norm with its gradient 1.8 times as fast as XLA's; the step of gpt2_small at
55 % of the measured matrix peak and 1.15 times as fast as PyTorch's. Exit code 0: all reached, 3: one missed, 4:
inconclusive.
"""

import argparse
import contextlib
import os
import sys

# Set before JAX starts. PyTorch's process needs some of the memory. The interpreter of Mosaic's kernels blocks a thread
# for each warpgroup, and XLA has this number of threads, or as many as there are cores.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
os.environ.setdefault("NPROC", str(max(8, os.cpu_count() or 1)))

from experiments import gpu_kernels, gpu_steps
from experiments.lib import record
from ryot_jax.kernels.gpu import pallas
from ryot_jax.machine.devices import describe_devices
from ryot_jax.runtime.errors import ConfigError

PARTS = ("correctness", "kernels", "steps")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true", help="small sizes, interpreted; nothing is judged by time")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--ops", nargs="+", choices=gpu_kernels.OPS, default=list(gpu_kernels.OPS))
    parser.add_argument("--configs", nargs="+", default=["configs/scaled.py", "configs/gpt2_small.py"])
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for one op at one size")
    parser.add_argument("--rounds", type=int, default=8, help="of the steps' blocks; each gives one pair")
    parser.add_argument("--block_seconds", type=float, default=0.6, help="length of a block, of which a round has two")
    parser.add_argument("--torch_python", default="", help="a Python with PyTorch; '': no PyTorch beside ours")
    parser.add_argument("--write", action="store_true", help="write experiments/results/gpu_DEVICE.md")
    parser.add_argument("--name", default="", help="a word more in the name of that file")
    options = parser.parse_args(words)
    devices = describe_devices()
    if devices.platform != "gpu" and not options.dry_run:
        raise ConfigError(f"experiments.gpu needs an NVIDIA GPU, this is {devices.kind}; use --dry_run without one")
    if options.dry_run and options.write:
        raise ConfigError("--dry_run measures nothing that --write could keep; leave one of them out")
    found = gpu_kernels.Found([], [], [])
    for part in options.parts:
        if part == "correctness":
            with pallas.interpreted() if options.dry_run else contextlib.nullcontext():
                found += gpu_kernels.told(gpu_kernels.correctness(options.ops, dry_run=options.dry_run))
            found += gpu_kernels.told(gpu_kernels.eight_bit_products(dry_run=options.dry_run))
        if part == "kernels":
            found += gpu_kernels.times(options.ops, options.seconds, options.torch_python, dry_run=options.dry_run)
        for config in options.configs if part == "steps" else ():
            found += gpu_kernels.told(gpu_steps.steps(config, options))
    name = "_".join(["gpu", devices.kind.replace("NVIDIA ", "").split()[0].lower(), *options.name.split()])
    return record.conclude(
        name,
        f"Kernels and steps on {devices.kind}",
        command=record.command("experiments.gpu", words),
        tables=found.tables,
        criteria=found.criteria,
        notes=found.notes,
        write=options.write,
        told=True,
    )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
