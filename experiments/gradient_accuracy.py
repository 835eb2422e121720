"""Accuracy of the optimized step's gradients, against an independent float64 implementation of the model.

    python -m experiments.gradient_accuracy --config=configs/scaled.py --write

The gradient of the mean loss over one whole batch with respect to all weights, as one vector: its distance from the
float64 gradient relative to the latter's length, and the cosine between the two; by kernel plan, and for the worst
single array. The float64 model shares no code with the package: it is the definition, in plain jax.numpy, compiled
without the fusions that jaxlib 0.10.2 gets wrong. Weights are initial, or those after --steps steps of the baseline.
Deterministic; about 1 minute for configs/scaled.py and 3 for configs/wide.py.

Goals: relative error at most 1e-5 for plans that compute in float32 (reference kernels, and the optimized ones with
float32 activations), at most 1.5e-2 with a cosine of at least 0.9999 with bfloat16 activations. Exit code 0: all
reached, 3: one missed, 4: a plan does not exist on this machine.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import random_tokens
from experiments.lib import record
from experiments.plain_flax_baseline import require_plain
from experiments.random_tokens import Setting
from ryot_jax.comparison.criteria import Criterion, Verdict
from ryot_jax.config import load
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.model import functional
from ryot_jax.optimizations import KernelPlan, resolve
from ryot_jax.runtime.compiler import without_ynn
from ryot_jax.runtime.errors import ConfigError

FLOAT32_ERROR = 1e-5
BFLOAT16_ERROR, BFLOAT16_COSINE = 1.5e-2, 0.9999

# Overrides of the config's wishes, by plan and op: the first name that this machine supports.
PLANS: dict[str, dict[str, tuple[str, ...]]] = {
    "optimized, float32": {"activations": ("float32", "off"), "dense": ("cpu", "off")},
    "optimized, bfloat16": {"activations": ("bfloat16",)},
}


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A gradient against the exact one.

    Attributes:
      error: length of the difference over the length of the exact gradient.
      cosine: cosine of the angle between the two.
      worst: path of the array with the largest relative error, and that error.
    """

    error: float
    cosine: float
    worst: tuple[str, float]


# ---- The definition, in float64 --------------------------------------------------------------------------------


def exact_loss(params, batch, n_heads):
    """Mean cross-entropy in nats of a GPT-2 with our weights, in the dtype of the weights."""
    tokens_BT = batch["inputs"]
    B, T = tokens_BT.shape
    x_BTD = params["embedding"][tokens_BT] + params["positions"][None, :T]
    future_TT = np.triu(np.ones((T, T), bool), 1)
    for _, block in sorted(params["blocks"].items()):
        qkv = _affine(_layer_norm(x_BTD, block["attention_norm"]), block["attention"]["qkv"])
        q_BTHK, k_BTHK, v_BTHK = (part.reshape(B, T, n_heads, -1) for part in jnp.split(qkv, 3, axis=-1))
        scores_BHTT = jnp.einsum("bqhk,bshk->bhqs", q_BTHK, k_BTHK) / math.sqrt(q_BTHK.shape[-1])
        scores_BHTT = jnp.where(future_TT[None, None], -jnp.inf, scores_BHTT)
        weights_BHTT = jnp.exp(scores_BHTT - jnp.max(scores_BHTT, axis=-1, keepdims=True))
        weights_BHTT = weights_BHTT / jnp.sum(weights_BHTT, axis=-1, keepdims=True)
        o_BTD = jnp.einsum("bhqs,bshk->bqhk", weights_BHTT, v_BTHK).reshape(x_BTD.shape)
        x_BTD = x_BTD + _affine(o_BTD, block["attention"]["out"])
        h_BTF = _affine(_layer_norm(x_BTD, block["mlp_norm"]), block["mlp"]["up"])
        h_BTF = 0.5 * h_BTF * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (h_BTF + 0.044715 * h_BTF**3)))
        x_BTD = x_BTD + _affine(h_BTF, block["mlp"]["down"])
    logits_BTV = _layer_norm(x_BTD, params["final_norm"]) @ params["embedding"].T
    largest_BT1 = jnp.max(logits_BTV, axis=-1, keepdims=True)
    log_z_BT = largest_BT1[..., 0] + jnp.log(jnp.sum(jnp.exp(logits_BTV - largest_BT1), axis=-1))
    chosen_BT = jnp.take_along_axis(logits_BTV, batch["targets"][..., None], axis=-1)[..., 0]
    return jnp.mean(log_z_BT - chosen_BT)


def _affine(x, layer):
    return x @ layer["kernel"] + layer["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def _layer_norm(x_BTD, layer):
    centred = x_BTD - jnp.mean(x_BTD, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    return centred / deviation * layer["scale"][None, None] + layer["bias"][None, None]


def exact_gradient(params, batch, n_heads) -> tuple[float, dict]:
    """Mean loss and its gradient in float64, on the host."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), params)
        compiled = jax.jit(jax.value_and_grad(lambda p, b: exact_loss(p, b, n_heads)), compiler_options=without_ynn())
        loss, gradient = jax.device_get(compiled(params, batch))
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(gradient))
    return float(loss), gradient


# ---- The package's gradients -----------------------------------------------------------------------------------


def gradient(setting: Setting, params, batch, plan: KernelPlan) -> tuple[float, dict]:
    """Mean loss and its gradient as the training step computes them, on the host."""

    def mean_loss(params, batch):
        loss_sum, n_targets = functional.loss(setting.setup.graphdef, params, batch, plan=plan)
        return loss_sum / n_targets

    loss, found = jax.device_get(jax.jit(jax.value_and_grad(mean_loss))(params, batch))
    return float(loss), found


def compare(found, exact) -> Accuracy:
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(exact)]
    pairs = [
        (np.asarray(a, np.float64).reshape(-1), b.reshape(-1))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    ]
    a_n, b_n = (np.concatenate(side) for side in zip(*pairs, strict=True))
    length = float(np.linalg.norm(b_n))
    # An array with a vanishing gradient (the keys' bias: zero in exact arithmetic) has no digits to compare.
    floor = 1e-3 * length / math.sqrt(len(paths))
    errors = [float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), floor) for a, b in pairs]
    worst = int(np.argmax(errors))
    cosine = float(a_n @ b_n / (np.linalg.norm(a_n) * length))
    return Accuracy(float(np.linalg.norm(a_n - b_n)) / length, cosine, (paths[worst], errors[worst]))


def resolved(config: ConfigDict, setting: Setting, instead: Mapping[str, tuple[str, ...]]) -> KernelPlan:
    """The plan of the config's optimizations, with some ops overridden by name.

    Raises:
      ConfigError: this machine supports none of an op's names, or this version of the package has no such op.
    """
    wishes = dict(config.optimizations)
    for op, names in instead.items():
        if op not in wishes:
            raise ConfigError(f"optimizations.{op}: this version of the package has no such switch")
        for name in names:
            try:
                resolve({**wishes, op: name}, spec=setting.spec)
            except ConfigError as error:
                refusal = error
            else:
                wishes[op] = name
                break
        else:
            raise refusal
    return resolve(wishes, spec=setting.spec).plan


def judge(name: str, accuracy: Accuracy, low_precision: bool) -> list[Criterion]:
    if not low_precision:
        return [record.at_most(f"{name}: relative error", accuracy.error, FLOAT32_ERROR, ".2g")]
    verdict: Verdict = "PASS" if accuracy.cosine >= BFLOAT16_COSINE else "FAIL"
    return [
        record.at_most(f"{name}: relative error", accuracy.error, BFLOAT16_ERROR, ".2g"),
        Criterion(f"{name}: cosine", f"at least {BFLOAT16_COSINE}", f"{accuracy.cosine:.6f}", verdict),
    ]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--steps", type=int, default=0, help="training steps of the baseline before the gradient")
    parser.add_argument("--write", action="store_true", help="write experiments/results/gradient_accuracy_CONFIG.md")
    options = parser.parse_args(words)
    configure_allocator()
    config = load(options.config)
    require_plain(config)
    setting = random_tokens.setting(config, arms=("baseline", "optimized"))
    params, batch = setting.setup.state.params, setting.setup.dataset[0]
    if options.steps:
        arm = setting.arm("baseline")
        arm.run_block(options.steps)
        params = arm.trainer.state.params
    exact_loss_value, exact = exact_gradient(params, batch, setting.model.n_heads)

    plans: dict[str, KernelPlan] = {"baseline": KernelPlan()}
    refused: dict[str, str] = {}
    for name, instead in PLANS.items():
        try:
            plans[name] = resolved(config, setting, instead)
        except ConfigError as error:
            refused[name] = str(error)
    configured = setting.variants[-1].plan
    if configured not in plans.values():
        plans["optimized, as configured"] = configured

    rows, criteria = [], []
    for name, plan in plans.items():
        loss, found = gradient(setting, params, batch, plan)
        accuracy = compare(found, exact)
        # The configured plan is held only to the error that its products' rounding explains.
        criteria += judge(name, accuracy, name not in ("baseline", "optimized, float32"))
        path, largest = accuracy.worst
        difference = f"{loss - exact_loss_value:+.1e}"
        rows.append((name, f"{accuracy.error:.2e}", f"{accuracy.cosine:.8f}", difference, f"{largest:.1e}", path))
    for name, why in refused.items():
        criteria.append(record.not_measured(f"{name}: relative error", "see the goals", why))
    header = ("plan", "relative error", "cosine", "loss - exact", "worst array", "which")
    return record.conclude(
        f"gradient_accuracy_{config.name}",
        f"Gradients of {config.name} against float64",
        command=record.command("experiments.gradient_accuracy", words),
        tables=[record.Table("gradient of the mean loss of one batch", header, rows)],
        criteria=criteria,
        notes=[
            f"{name}: " + ", ".join(f"{op}={choice or 'as the model'}" for op, choice in dict(plan).items())
            for name, plan in plans.items()
        ],
        write=options.write,
    )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
