# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Is it real?
#
# You have two training steps, and a claim that the second is faster, or that its loss is better.
# `ryot_jax.comparison.compare` trains both, interleaved, and reports PASS, FAIL or INCONCLUSIVE. It needs none of this
# package's models: two functions `(state, batch) -> (state, loss)` are enough.
#
# Four parts, about a minute on two CPU cores: an honest comparison and how to read it, a speed-up that is not there, a
# loss that means nothing, and the changes for your own steps. The figures are from the machine that this runs
# on, so the text explains their meaning and not their values.
#
# In Colab, the next cell needs the address of the repository. If `ryot_jax` is installed, it does nothing.

# %%
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("ryot_jax") is None:
    repository = ""  # its address, as `git clone` takes it
    if not repository:
        raise RuntimeError(
            "ryot_jax is not installed. On your machine: run `pip install -e .` in its repository. "
            "In Colab: write the repository's address into this cell."
        )
    checkout = Path("ryot_jax-checkout").absolute()
    if not checkout.is_dir():
        subprocess.run(["git", "clone", "--quiet", "--depth=1", repository, str(checkout)], check=True)
    extra = "[cuda12]" if shutil.which("nvidia-smi") else ""
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", f"{checkout}{extra}"], check=True)
    sys.path.insert(0, str(checkout))  # this process started before the package was installed

# %%
import time

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import display

from ryot_jax.comparison import compare
from ryot_jax.runtime.errors import ConfigError

# %% [markdown]
# ## 1. An honest comparison
#
# A small program that is not ours: a perceptron with one hidden layer tells ten noisy clusters apart. State, batches
# and losses are plain JAX and NumPy.

# %%
CLASSES, FEATURES, HIDDEN, BATCH, RATE = 10, 64, 512, 512, 0.1
CENTRES = np.random.default_rng(0).normal(0.0, 0.25, (CLASSES, FEATURES))


def draw(seed, count):
    """Points around the centres, and the class of each; the same for the same seed."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = CENTRES[y] + rng.normal(0.0, 1.0, (count, FEATURES))
    return {"x": x.astype(np.float32), "y": y.astype(np.int32)}


def batches(step):
    """The batch of a step: both arms are fed the same."""
    return draw((1, step), BATCH)


def initial(scale):
    """Random weights of standard deviation `scale` over the square root of a layer's inputs."""
    first, second = jax.random.split(jax.random.key(0))
    return {
        "w1": scale * jax.random.normal(first, (FEATURES, HIDDEN)) / FEATURES**0.5,
        "b1": jnp.zeros(HIDDEN),
        "w2": scale * jax.random.normal(second, (HIDDEN, CLASSES)) / HIDDEN**0.5,
        "b2": jnp.zeros(CLASSES),
    }


def losses(params, batch):
    """Cross-entropy of each example, nats."""
    hidden = jax.nn.relu(batch["x"] @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]


def mean_loss(params, batch):
    return jnp.mean(losses(params, batch))


# %% [markdown]
# Two implementations of the same mathematics. `one_by_one` goes through the batch in a loop and adds up gradients, as
# a port of a Python loop does; `at_once` takes the batch as one array. Only the order of sums differs.


# %%
def descend(params, gradients, rate):
    return jax.tree.map(lambda param, gradient: param - rate * gradient, params, gradients)


def at_once(params, batch, rate=RATE):
    loss, gradients = jax.value_and_grad(mean_loss)(params, batch)
    return descend(params, gradients, rate), loss


def one_by_one(params, batch):
    def add(total, example):
        found = jax.value_and_grad(mean_loss)(params, jax.tree.map(lambda leaf: leaf[None], example))
        return jax.tree.map(jnp.add, total, found), None

    nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (loss, gradients), _ = jax.lax.scan(add, nothing, batch)
    return descend(params, gradients, RATE / BATCH), loss / BATCH


# %% [markdown]
# Four more things make the comparison one that can be trusted:
#
# * `evaluate` gives the losses of held-out examples. Both arms are judged on the same ones, and the interval is taken
#   over their paired differences.
# * `shuffle` takes the information out of a batch. Training on such batches must fail; if it passes, the criteria are
#   too easy to mean anything.
# * `chance_loss` is what guessing comes to: ten classes that are equally frequent have an entropy of ln 10. A loss
#   above it has learnt nothing, however far it has fallen.
# * `same_numerics=True` is a promise of `at_once`: the same numbers to rounding. A *better* loss would then be a
#   defect.

# %%
HELDOUT = draw(2, 2048)


def shuffle(rng, batch):
    return {**batch, "y": rng.permutation(batch["y"])}


honest = compare(
    one_by_one,
    at_once,
    initial(1.0),
    batches,
    evaluate=jax.jit(lambda params: losses(params, HELDOUT)),
    names=("one by one", "at once"),
    steps=400,
    block_steps=50,
    items_per_step=BATCH,
    same_numerics=True,
    chance_loss=float(np.log(CLASSES)),
    shuffle=shuffle,
    control_steps=40,
    name="one_by_one_or_at_once",
    log=print,
)

# %%
print(honest.summary())

# %% [markdown]
# ### How to read it
#
# * **The verdict** is PASS if every criterion and every control passes, and FAIL if a criterion fails. It is
#   INCONCLUSIVE if the figures do not tell, or if a control does not pass: then nothing else counts, good or bad. That
#   is an answer, not an exception to be caught, and is common on a machine with other load.
# * **The interval** of the speed-up is taken over block pairs: the arms train in turns, 50 steps each, in random
#   order, so that a machine that slows down hits both. Compilation is measured apart.
# * **The placebo** is two arms of one program, measured in the same way. How far apart they seem is the **noise
#   floor**: a speed-up below it is noise here, even if its interval is above 1.
# * **The known delay** takes more steps than it reports. If it is not found, this machine could not have shown a
#   difference of that size today.
#
# All of it is data, under the names that the summary shows:

# %%
comparison, controls = honest.results.comparison, honest.results.controls
print("verdict:", honest.verdict, "- a script would end with exit code", honest.exit_code)
print("speed-up:", comparison.step_time_speedup.estimate)
print("95 % interval:", comparison.step_time_speedup.ci95)
print("difference of losses:", comparison.heldout_loss_difference)
print("noise floor:", controls.noise_floor)
for control in controls.items:
    print(f"{control.name}: {control.verdict}, {control.actual}")

# %% [markdown]
# And all of it is in a report: one HTML file that needs no network. A notebook shows it inline.

# %%
print(honest.report("runs/is_it_real.html"))
display(honest)

# %% [markdown]
# ## 2. A speed-up that is not there
#
# The report that this package began from said "8.3 % faster" of two runs, once each, one after the other. Here is that
# protocol, with two more faults that are common: the clock starts before the first step is compiled, and stops without
# waiting for the device. Both of its runs are of the **same** function.


# %%
def step(params, batch):
    return at_once(params, batch)


def seconds_of(program, steps=50):
    start = time.perf_counter()
    params = initial(1.0)
    for i in range(steps):
        params, _ = program(params, batches(i))
    return time.perf_counter() - start


program = jax.jit(step)
first, second = seconds_of(program), seconds_of(program)
claim = first / second
print(f'baseline {first:.3f} s, optimized {second:.3f} s: "{claim:.2f} times as fast"')

# %% [markdown]
# Whatever ratio stands there, nothing was made faster: it is the ratio of a program to itself. The first run paid for
# tracing and compiling, the second did not. A placebo is two runs of one program, and a protocol that finds a
# difference between them measures itself.
#
# What is `compare`'s verdict on the same claim? First in its original form: the optimization had been
# commented out.


# %%
def optimized_step(params, batch):
    # params = much_faster_update(params, batch)
    return step(params, batch)


try:
    compare(step, optimized_step, initial(1.0), batches)
except ConfigError as error:
    print("ConfigError:", error)

# %% [markdown]
# Now something that *is* another program, and has no reason to be faster: the learning rate differs in the seventh
# digit. The check above lets it through, so it is for the controls to judge.


# %%
def nudged_step(params, batch):
    return at_once(params, batch, rate=RATE * (1 + 1e-6))


noise = compare(
    step,
    nudged_step,
    initial(1.0),
    batches,
    evaluate=jax.jit(lambda params: losses(params, HELDOUT)),
    names=("step", "nudged"),
    steps=400,
    block_steps=50,
    items_per_step=BATCH,
    chance_loss=float(np.log(CLASSES)),
    shuffle=shuffle,
    control_steps=40,
)
measured = noise.results.comparison.step_time_speedup
low, high = measured.ci95
print(f"one run after the other: {claim:.3f} times as fast, no interval")
print(f"in turns:                {measured.estimate:.3f} times as fast, 95 % interval {low:.3f} to {high:.3f}")
print(f"noise floor:             {1 + noise.results.controls.noise_floor:.3f}, by the placebo")
print(f"verdict:                 {noise.verdict}")

# %% [markdown]
# For a PASS the whole interval of the speed-up would have to be above 1, and the estimate above the noise floor. Two
# programs that take the same time give INCONCLUSIVE, or FAIL if the interval is below 1. Every protocol is wrong at
# times: how often this one is, and how often the usual ones are, is measured by
# `python -m experiments.false_positives`.
#
# ## 3. A loss that means nothing
#
# "12 % better loss", said the same report, of a model that was trained on random labels. Here are such labels, weights
# that start large, and so a loss that starts far above that of guessing. The "optimized" step has the larger
# learning rate of two.


# %%
def random_labels(seed, batch):
    labels = np.random.default_rng(seed).integers(0, CLASSES, len(batch["y"]))
    return {**batch, "y": labels.astype(np.int32)}


def careful_step(params, batch):
    return at_once(params, batch, rate=0.01)


def bold_step(params, batch):
    return at_once(params, batch, rate=0.03)


RANDOM_HELDOUT = random_labels(4, HELDOUT)


def compare_on_random_labels(**settings):
    return compare(
        careful_step,
        bold_step,
        initial(2.0),
        lambda step: random_labels((3, step), batches(step)),
        evaluate=jax.jit(lambda params: losses(params, RANDOM_HELDOUT)),
        names=("careful", "bold"),
        steps=200,
        block_steps=50,
        items_per_step=BATCH,
        shuffle=shuffle,
        **settings,
    )


naive = compare_on_random_labels(control_steps=40)
start, end = (
    [getattr(arm, f"{when}_heldout_loss") for arm in naive.results.arms.values()] for when in ("initial", "final")
)
print(f"held-out loss of the baseline: {start[0]:.3f} to {end[0]:.3f}, it falls by {1 - end[0] / start[0]:.0%}")
print(f'and of the optimized arm to {end[1]:.3f}: "{1 - end[1] / end[0]:.0%} better loss"')

# %% [markdown]
# Both losses fall, the second one further, and on held-out examples too. Yet there is nothing to learn in these
# labels: the model only becomes less sure of itself. We did not give the loss of guessing, so the
# criteria of learning require only that the loss falls, and the control on shuffled labels shows that they are
# too easy:

# %%
for control in naive.results.controls.items:
    print(f"{control.name}: {control.verdict}, {control.actual}")
print("verdict:", naive.verdict)

# %% [markdown]
# With `chance_loss` the criterion is the right one, and the arms themselves fail it. No controls are needed
# to see that.

# %%
judged = compare_on_random_labels(control_blocks=0, chance_loss=float(np.log(CLASSES)))
for criterion in judged.results.criteria:
    print(f"{criterion.name}: {criterion.verdict}, {criterion.actual}")
print("verdict:", judged.verdict)

# %% [markdown]
# ## 4. Your own two steps
#
# 1. Write both as `(state, batch) -> (state, loss)`. `state` is any pytree of arrays: weights, optimizer states, keys.
#    If the two need different states, put both into one and pass the other's on, as
#    [`experiments/two_optimizers.py`](../two_optimizers.py) does. Steps that are wrapped in `jax.jit` already keep
#    their donation and shardings.
# 2. Give `evaluate`, `shuffle` and `chance_loss`. For next-token prediction, the entropy of the token counts is a good
#    `chance_loss`.
# 3. Choose `block_steps` and `control_steps` so that a block takes a tenth of a second or more, and `steps` for eight
#    block pairs or more.
# 4. State `margin` and `tight_margin` before you look: how far apart may the losses be?
# 5. On INCONCLUSIVE, give it more steps or a quieter machine. Running it again until it passes is how false claims are
#    made.
#
# One run of `compare` is one seed: it shows whether *this* program is faster on *this* machine, and nothing about the
# noise between seeds. The report ends with a list of what it does not show.
