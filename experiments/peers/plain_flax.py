"""Worker: a plainly written Flax program (experiments/plain_flax_baseline.py) in a process with default settings.

echo 'block 10' | python -m experiments.peers.plain_flax --task=/tmp/task --program=plain-fused
"""

import argparse
import itertools
from pathlib import Path

import flax
import jax
import numpy as np

from experiments import random_tokens
from experiments.peers.task import read_weights
from experiments.peers.worker import answers, serve
from experiments.plain_flax_baseline import ATTENTIONS, plain_program
from ryot_jax.config import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--program", choices=sorted(ATTENTIONS), required=True)
    options = parser.parse_args()
    answer = answers()
    batches = random_tokens.batches_of(np.load(options.task / "tokens.npy"))
    config, weights = load(str(options.task / "config.json")), read_weights(options.task)
    step, state, initial_loss = plain_program(ATTENTIONS[options.program], config, weights, batches[0])
    parameters = sum(x.size for x in jax.tree.leaves(state[0]))
    endless = itertools.cycle(batches)

    def run_steps(n):
        nonlocal state
        for batch in itertools.islice(endless, n):
            state, loss = step(state, batch)
        jax.block_until_ready(state)
        return float(loss)

    serve(
        answer,
        run_steps,
        parameters=parameters,
        initial_loss=initial_loss,
        versions={"jax": jax.__version__, "flax": flax.__version__},
        notes="float32; the process's default allocator",
    )


if __name__ == "__main__":
    main()
