"""Run by test_parallel.py in a process of its own, which has 8 simulated devices; prints one JSON object.

Trains the tiny model for three steps under every way to spread a step over devices, and on one device; three calls
of a program, or one call of a program that takes three.
"""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.evaluation import make_evaluator
from ryot_jax.training.parallel import compile_step, data_mesh, stack
from ryot_jax.training.program_check import checked
from ryot_jax.training.qat import rounded_from


def load_tiny():
    """The tiny model of the tests beside this file."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Tiny()


def run(tiny, parallelism, mesh, accumulation, steps=1, params_fn=None):
    """Metrics of three steps, `steps` a call, final numbers, and where the program ran."""
    step_fn = tiny.step_fn(accumulation=accumulation, params_fn=params_fn)
    batches = [tiny.make_batch(seed=i, rows=32) for i in range(3)]
    calls = batches if steps == 1 else [stack(batches)]
    compiled = compile_step(step_fn, tiny.state(), calls[0], steps=steps, parallelism=parallelism, mesh=mesh)
    state, metrics, compiles = tiny.state(), [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiles.append(event) if event.endswith("backend_compile_duration") else None
    )
    for call in calls:
        state, values = compiled(state, call)
        columns = {name: np.atleast_1d(x).tolist() for name, x in values.items()}
        metrics += [{name: column[i] for name, column in columns.items()} for i in range(steps)]
    jax.monitoring.clear_event_listeners()
    return {
        "metrics": metrics,
        "state": [np.asarray(x).ravel().tolist() for x in jax.tree.leaves((state.params, state.opt_state))],
        "devices": len(state.params["embedding"].sharding.device_set),
        "shapes": [list(x.shape) for x in jax.tree.leaves(state.params)],
        "all_reduce": "all-reduce" in compiled.hlo_text(),
        "placed": all(x.sharding == compiled.state_sharding for x in jax.tree.leaves(state)),
        "compiles": len(compiles),
        "seconds": compiled.seconds,
    }


def main():
    """All ways, with and without accumulation."""
    tiny = load_tiny()
    one = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    eight = data_mesh()
    # Ignored targets of a batch as they fall on the devices.
    shards = (tiny.make_batch(rows=32)["targets"] >= 0).reshape(8, -1).sum(1).tolist()
    results = {"targets_per_device": shards, "device_count": jax.device_count()}
    for accumulation in (1, 2):
        for name, mesh in (("one", one), ("jit", eight), ("shard_map", eight), ("pmap", eight)):
            parallelism = "jit" if name == "one" else name
            results[f"{name} {accumulation}"] = run(tiny, parallelism, mesh, accumulation)
            if name in ("jit", "shard_map"):
                results[f"{name} {accumulation} scan"] = run(tiny, parallelism, mesh, accumulation, steps=3)
            if accumulation == 2:
                results[f"{name} rounded"] = run(tiny, parallelism, mesh, accumulation, params_fn=rounded_from(1, 3))
    try:
        compile_step(tiny.step_fn(), tiny.state(), stack([tiny.make_batch(rows=30)] * 8), steps=8)
    except ConfigError as error:
        results["refused"] = str(error)
    _, check = checked(tiny.step_fn(), tiny.state(), tiny.make_batch(rows=32), parallelism="shard_map")
    results["check"] = [check.ok, check.worst_error, check.skipped]
    results["heldout"] = heldout_losses(tiny, one, eight)
    json.dump(results, sys.stdout)


def heldout_losses(tiny, one, eight):
    """The same evaluation on one device, spread over eight, and with rows that eight do not divide."""

    def sums(params, batch):
        losses_BT, valid_BT = tiny.token_losses(params, batch)
        return losses_BT.sum(1), valid_BT.sum(1)

    losses = []
    for mesh, rows in ((one, 8), (eight, 8), (eight, 4)):
        batch = tiny.make_batch(rows=16)
        heldout = {name: x.reshape(-1, rows, x.shape[-1]) for name, x in batch.items()}
        losses.append(make_evaluator(sums, heldout, tiny.init_params(), mesh=mesh)(tiny.init_params()).mean_loss)
    return losses


if __name__ == "__main__":
    main()
