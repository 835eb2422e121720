"""The held-out loss: one compiled program and one fixed set of sequences for all arms of a comparison."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ryot_jax.runtime.compiler import without_ynn
from ryot_jax.training.parallel import DATA_AXIS, data_mesh

# (params, {'inputs': int32[B, T], 'targets': int32[B, T]}) -> (loss sums f32[B] in nats, target counts [B])
SequenceLossesFn = Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out losses in nats per token.

    Attributes:
      mean_loss: mean over all targets of the set.
      sequence_losses: mean of each sequence, float64[n]; padding sequences are left out.
    """

    mean_loss: float
    sequence_losses: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Callable `(params) -> Evaluation` that never recompiles.

    Attributes:
      executable: `(params, heldout, index of a batch) -> (loss_sum_B, n_targets_B)`.
      heldout: the set on the devices, arrays [n_batches, B, T].
      params_sharding: the placement of parameters that the program requires.
      compile_seconds: seconds of tracing, lowering and compilation.
    """

    executable: jax.stages.Compiled
    heldout: dict[str, jax.Array]
    params_sharding: NamedSharding
    compile_seconds: float

    def __call__(self, params: Any) -> Evaluation:
        """Evaluates `params` on the whole set; sums in float64 on the host."""
        params = jax.device_put(params, self.params_sharding)
        n_batches = self.heldout["targets"].shape[0]
        # All batches are dispatched before the first result is fetched.
        results = [self.executable(params, self.heldout, np.int32(i)) for i in range(n_batches)]
        sums_and_counts = jax.device_get(results)
        loss_sum_N = np.concatenate([s for s, _ in sums_and_counts]).astype(np.float64)
        n_targets_N = np.concatenate([n for _, n in sums_and_counts]).astype(np.float64)
        real_N = n_targets_N > 0
        loss_sum_N, n_targets_N = loss_sum_N[real_N], n_targets_N[real_N]
        return Evaluation(float(loss_sum_N.sum() / n_targets_N.sum()), loss_sum_N / n_targets_N)


def make_evaluator(
    sequence_losses_fn: SequenceLossesFn,
    heldout: Mapping[str, np.ndarray],
    params: Any,
    *,
    mesh: Mesh | None = None,
) -> Evaluator:
    """Compiles the evaluation program and puts the held-out set on the devices, once.

    On a CPU the program is compiled without the fusions that `program_check` suspects, as all arms are judged by it.

    Args:
      sequence_losses_fn: pure, deterministic, without optimized kernels.
      heldout: 'inputs' and 'targets' int32[n_batches, B, T]; targets below 0 do not count.
      params: a parameter tree; only its shapes and dtypes are used.
      mesh: a mesh with one axis 'data'; None: all local devices.
    """
    mesh = data_mesh() if mesh is None else mesh
    replicated = NamedSharding(mesh, P())
    divides = heldout["targets"].shape[1] % mesh.size == 0
    by_row = NamedSharding(mesh, P(None, DATA_AXIS) if divides else P())
    on_device = jax.device_put({name: heldout[name] for name in ("inputs", "targets")}, by_row)

    def evaluate_batch(params: Any, heldout: dict[str, jax.Array], index: jax.Array) -> Any:
        batch = {name: jax.lax.dynamic_index_in_dim(x, index, keepdims=False) for name, x in heldout.items()}
        return sequence_losses_fn(params, batch)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), params)
    start = time.perf_counter()
    executable = (
        jax.jit(evaluate_batch, in_shardings=(replicated, by_row, replicated), out_shardings=replicated)
        .lower(shapes, on_device, jax.ShapeDtypeStruct((), np.int32))
        .compile(compiler_options=without_ynn())
    )
    return Evaluator(executable, on_device, replicated, time.perf_counter() - start)
