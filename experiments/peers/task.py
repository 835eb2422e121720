"""The task: a folder from which every worker reads the same model, weights and batches.

    python -m experiments.peers.task --config=configs/scaled.py --folder=/tmp/task

config.json holds the config, weights.npz our model's initial weights under names such as
'blocks/layer_000/attention/qkv/kernel', tokens.npy int32[n, B, T + 1], expected.json the number of weights and their
loss on the first batch by the reference kernels.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import random_tokens
from experiments.plain_flax_baseline import require_plain
from ryot_jax.config import load, to_json
from ryot_jax.model import functional
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan


def write(folder: Path, config: ConfigDict) -> dict[str, float]:
    """Write the task and return the number of weights and the first loss expected of every worker.

    Raises:
      ConfigError: the peers do not support the model.
    """
    require_plain(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(config), encoding="utf-8")
    tokens_nBT = random_tokens.draw_tokens(config)
    np.save(folder / "tokens.npy", tokens_nBT)
    graphdef, params = functional.init(from_config(config.model, "cpu"), config.seed)
    weights = write_weights(folder, params)
    batch = random_tokens.batches_of(tokens_nBT)[0]
    loss_sum, n_targets = jax.jit(lambda p, b: functional.loss(graphdef, p, b, plan=KernelPlan()))(params, batch)
    expected = {
        "parameters": int(sum(array.size for array in weights.values())),
        "initial_loss": float(loss_sum / n_targets),
    }
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    return expected


def write_weights(folder: Path, params: functional.Params) -> dict[str, np.ndarray]:
    """Write the weights of a task, and return them by name."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    weights: dict[str, Any] = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves
    }
    np.savez(folder / "weights.npz", **weights)
    return weights


def read_weights(folder: Path) -> dict:
    """Read the weights of a task as our model's nested dict of arrays."""
    tree: dict = {}
    with np.load(folder / "weights.npz") as arrays:
        for path, array in arrays.items():
            *parents, leaf = path.split("/")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[leaf] = array
    return tree


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    print(write(arguments.folder, load(arguments.config)))
