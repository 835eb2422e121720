"""Example of `compare` in another program: two optimizers of a small Flax model on its own task.

    python -m experiments.two_optimizers [--report=two_optimizers.html]

A perceptron of three layers learns which arm of a spiral a point is on. AdamW is the baseline; the question is whether
Muon, which makes the updates of matrices orthogonal (Jordan et al. 2024), is worth its extra products: its steps are
slower, and the loss falls faster. The answer is the time to the target loss; the criterion on the speed of a step
fails. About half a minute; exit code 3, as a criterion fails.
"""

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from optax.contrib import muon

from ryot_jax.comparison import Comparison, compare
from ryot_jax.comparison.function_arm import Step

ARMS, BATCH, WIDTH = 3, 1024, 256


class Classifier(nnx.Module):
    """A perceptron with two hidden layers, from points of the plane to logits."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(2, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, ARMS, rngs=rngs)

    def __call__(self, x_B2: jax.Array) -> jax.Array:
        """Map points x_B2 to logits_BA."""
        return self.last(nnx.relu(self.second(nnx.relu(self.first(x_B2)))))


def spiral(seed: int | tuple[int, ...], points: int) -> dict[str, np.ndarray]:
    """Points on the arms of a spiral, and the arm of each."""
    rng = np.random.default_rng(seed)
    arm_B = rng.integers(0, ARMS, points)
    radius_B = np.sqrt(rng.uniform(0.05, 1.0, points))
    angle_B = 4.0 * radius_B + arm_B * 2.0 * np.pi / ARMS + rng.normal(0.0, 0.4, points)
    x_B2 = np.stack([radius_B * np.cos(angle_B), radius_B * np.sin(angle_B)], axis=1)
    return {"x": x_B2.astype(np.float32), "y": arm_B.astype(np.int32)}


def train_step(graphdef: nnx.GraphDef[Classifier], name: str, optimizer: optax.GradientTransformation) -> Step:
    """A step `(state, batch) -> (state, loss)`; `state` has the weights, and each optimizer's state by name.

    Both arms start from the same state, so the other optimizer's is passed through unchanged.
    """

    def step(state, batch):
        def mean_loss(params):
            return jnp.mean(losses(graphdef, params, batch))

        loss, gradients = jax.value_and_grad(mean_loss)(state["params"])
        updates, inner = optimizer.update(gradients, state[name], state["params"])
        return {**state, "params": optax.apply_updates(state["params"], updates), name: inner}, loss

    return step


def losses(graphdef: nnx.GraphDef[Classifier], params: nnx.State, batch: dict[str, np.ndarray]) -> jax.Array:
    """Cross-entropy of each point."""
    logits_BA = nnx.merge(graphdef, params)(jnp.asarray(batch["x"]))
    return optax.softmax_cross_entropy_with_integer_labels(logits_BA, jnp.asarray(batch["y"]))


def run(steps: int = 320, control_blocks: int = 16) -> Comparison:
    """Compare the two optimizers."""
    graphdef, params = nnx.split(Classifier(nnx.Rngs(0)))
    optimizers = {"adamw": optax.adamw(2e-3), "muon": muon(5e-3)}
    heldout = spiral(1, 2048)
    return compare(
        train_step(graphdef, "adamw", optimizers["adamw"]),
        train_step(graphdef, "muon", optimizers["muon"]),
        {"params": params, **{name: optimizer.init(params) for name, optimizer in optimizers.items()}},
        lambda step: spiral((2, step), BATCH),
        evaluate=jax.jit(lambda state: losses(graphdef, state["params"], heldout)),
        names=("adamw", "muon"),
        steps=steps,
        items_per_step=BATCH,
        chance_loss=float(np.log(ARMS)),
        shuffle=lambda rng, batch: {**batch, "y": rng.permutation(batch["y"])},
        control_blocks=control_blocks,
        control_steps=20,
        name="two_optimizers",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, write the report if requested, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", default="", help="where to write the report, an HTML file")
    options = parser.parse_args(arguments)
    found = run()
    sys.stdout.write(found.summary())
    if options.report:
        sys.stdout.write(f"report: {found.report(options.report)}\n")
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main())
