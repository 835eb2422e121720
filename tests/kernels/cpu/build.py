"""Programs of the library's sources: built once for a hash of all that goes into them, and shared by tests and runs."""

import hashlib
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ryot_jax.kernels import cpu

KERNELS = Path(cpu.__file__).parent
CPP = Path(__file__).parent / "cpp"


def runnable() -> list[Path]:
    """The files of targets that this machine can run: each has its instruction set and its dtype in its name."""
    sets = (*cpu.instruction_sets(), *cpu.emulated_instruction_sets())
    return [path for path in (KERNELS / "targets").glob("*.cc") if path.stem.removesuffix("_bfloat16") in sets]


def exercise(
    cache: Path,
    *flags: str,
    kernels: Path = KERNELS,
    targets: list[Path] | None = None,
    compiler: str = "g++",
) -> Path:
    """The exercise program.

    Args:
      cache: folder for programs.
      *flags: of the compiler and linker.
      kernels: the library's sources.
      targets: files of targets; None: all in `kernels`.
      compiler: its name.

    Raises:
      subprocess.CalledProcessError: the compiler's or linker's words are its stderr.
    """
    sources = [
        *sorted(targets or (kernels / "targets").glob("*.cc")),
        *sorted((kernels / "core").glob("*.cc")),
        CPP / "exercise.cc",
    ]
    parts = [*sorted(kernels.rglob("*.cc")), *sorted(kernels.rglob("*.h")), *sorted(CPP.iterdir())]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(repr((version, flags, sorted(map(str, targets or ())))).encode())
    for part in parts:
        digest.update(part.name.encode() + part.read_bytes())
    program = cache / f"exercise-{digest.hexdigest()[:24]}"
    if program.exists():
        return program
    # What the package is built with, less the optimization: reports name lines.
    common = ["-std=c++17", "-O1", "-g1", "-w", "-fno-strict-aliasing", "-pthread", f"-I{kernels}", *flags]
    common += ["-DRYOT_EMULATE_AMX"] if cpu.emulated_instruction_sets() else []

    def run(*arguments: str) -> None:
        subprocess.run([compiler, *common, *arguments], capture_output=True, text=True, check=True)

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        objects = [str(Path(folder) / f"{i}.o") for i in range(len(sources))]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda pair: run("-c", str(pair[0]), "-o", pair[1]), zip(sources, objects, strict=True)))
        linked = Path(folder) / "exercise"
        run("-Wl,--wrap=aligned_alloc", *objects, "-o", str(linked))
        linked.replace(program)  # whole, whoever else builds it at the same time
    return program
