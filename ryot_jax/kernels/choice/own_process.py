"""Trial of one implementation in a separate process with a time limit: a GPU compiler may crash or hang.

    echo '{"op": ..., "name": ..., "seed": 0, "spec": {...}}' | python -m ryot_jax.kernels.choice.own_process

Prints the outcome as JSON. An implementation that passes is compiled again where it is timed, from the compilation
cache on disk if there is one.
"""

import dataclasses
import json
import os
import subprocess
import sys

import jax

from ryot_jax.kernels.catalogue import op as op_of_name
from ryot_jax.kernels.choice.benchmark import benchmark, compiled, described
from ryot_jax.kernels.declaration import Op, Spec

LIMIT_SECONDS = 300.0  # compiling, with XLA's own tuning of the products, and one run
_MODULE = "ryot_jax.kernels.choice.own_process"


def failure_of(op: Op, spec: Spec, name: str, *, seed: int = 0, limit_seconds: float = LIMIT_SECONDS) -> str:
    """The reason why implementation `name` of `op` cannot be timed for `spec`; '': it compiled and ran."""
    asked = json.dumps({"op": op.name, "name": name, "seed": seed, "spec": dataclasses.asdict(spec)})
    # This process has preallocated most of the GPU's memory; the other one allocates what it needs from the rest.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    folder: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", _MODULE],
            input=asked,
            capture_output=True,
            text=True,
            env=environment,
            timeout=limit_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {limit_seconds:g} s"
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        return f"its process ended with exit code {done.returncode}: {last}"
    try:
        return str(json.loads(done.stdout.splitlines()[-1])["failure"])
    except (IndexError, ValueError, KeyError):
        return f"its process did not say what came of it: {done.stdout[-200:]!r}"


def main() -> None:
    """Compile and run the implementation named on standard input."""
    asked = json.load(sys.stdin)
    arrays = benchmark(op_of_name(asked["op"]), Spec(**asked["spec"]), seed=asked["seed"])
    failure = ""
    try:
        program, _ = compiled(arrays, asked["name"])
        jax.block_until_ready(program())
    except Exception as error:  # of any kind: a compiler's, the runtime's, a kernel's own
        failure = described(error)
    sys.stdout.write(json.dumps({"failure": failure}) + "\n")


if __name__ == "__main__":
    main()
