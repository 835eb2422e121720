"""Worker: an arm of the main command, compiled as by the main command.

    echo 'block 10' | python -m experiments.peers.ours --task=/tmp/task --arm=optimized

`--allocator=off` leaves the C library's allocator as it is.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from experiments import random_tokens
from experiments.peers.worker import answers, serve
from ryot_jax.config import load
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.model import functional


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--arm", choices=("baseline", "optimized"), required=True)
    parser.add_argument("--allocator", choices=("on", "off"), default="on")
    options = parser.parse_args()
    answer = answers()
    allocator = configure_allocator(options.allocator == "on")
    tokens_nBT = np.load(options.task / "tokens.npy")
    setting = random_tokens.setting(load(str(options.task / "config.json")), tokens_nBT, arms=(options.arm,))
    arm = setting.arm(options.arm)
    params, first = arm.trainer.state.params, random_tokens.batches_of(tokens_nBT)[0]
    plan = arm.variant.plan

    def mean_loss(params, batch):
        loss_sum, n_targets = functional.loss(setting.setup.graphdef, params, batch, plan=plan)
        return loss_sum / n_targets

    chosen = ", ".join(f"{op} {name}" for op, name in dict(plan).items() if name)
    serve(
        answer,
        lambda n: arm.run_block(n).losses[-1],
        parameters=sum(x.size for x in jax.tree.leaves(params)),
        initial_loss=float(jax.jit(mean_loss)(params, first)),
        versions={"jax": jax.__version__},
        notes=f"{chosen}; allocator: {allocator.reason}",
    )


if __name__ == "__main__":
    main()
