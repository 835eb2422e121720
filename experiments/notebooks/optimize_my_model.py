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
# # Kernels in your own model
#
# `ryot_jax.optimize` takes a loss function, written with any JAX library, and returns one that computes the same with
# faster kernels. Nothing of the model changes. This notebook takes an ordinary Flax model through the whole way: one
# line, a table of what was found, a check of the numbers, and a comparison in training that may say no.
#
# One to two minutes on two CPU cores. The figures are from the machine that this runs on, so the text explains their
# meaning and not their values.
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
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from IPython.display import display

from ryot_jax import optimize
from ryot_jax.comparison import compare_losses

# %% [markdown]
# ## 1. An ordinary model
#
# A small transformer in Flax NNX, as in Flax's own documentation, which predicts the next byte of a text. The text is
# the source of two modules of Python's standard library. Nothing here knows of `ryot_jax`.

# %%
VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH, BATCH = 256, 128, 4, 2, 64, 16


class Block(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.first(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.second(x))))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.places = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.places(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.tokens.attend(self.norm(x))


graph, params = nnx.split(Model(nnx.Rngs(0)))


def losses(params, tokens):
    """Cross-entropy of each next byte, nats."""
    logits = nnx.merge(graph, params)(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])


def loss(params, tokens):
    return losses(params, tokens).mean()


# %%
TEXT = np.frombuffer((inspect.getsource(inspect) + inspect.getsource(typing)).encode(), np.uint8)
CUT = len(TEXT) * 9 // 10


def draw(seed, text, count):
    """Pieces of a text; the same for the same seed."""
    starts = np.random.default_rng(seed).integers(0, len(text) - LENGTH - 1, count)
    return np.stack([text[start : start + LENGTH + 1] for start in starts]).astype(np.int32)


def batches(step):
    return draw((0, step), TEXT[:CUT], BATCH)


HELDOUT = draw(1, TEXT[CUT:], 128)

# %% [markdown]
# ## 2. One line
#
# `optimize` returns a function of the same arguments. Use it wherever the loss was used: in `jax.grad`, `jit`, `vmap`,
# `scan` and `remat`. It goes around the loss, **before** differentiation: a gradient consists of other equations, and
# the kernels bring gradients of their own.

# %%
fast_loss = optimize(loss)

step = jax.jit(jax.value_and_grad(fast_loss))
value, gradients = step(params, batches(0))
print("loss:", value)

# %% [markdown]
# ## 3. What was found
#
# The function was traced, and what it computes was compared with what each kernel computes, in whatever order of axes,
# sums and products it is written. `explain` shows every place: how often, what it is, which implementation computes it
# on this machine, the shape, and the line. Equal layers are one row.

# %%
explanation = fast_loss.explain(params, batches(0))
print(explanation)

# %% [markdown]
# Some rows have names that the model does not: the three projections of attention are one product (`dense x 3`), and a
# norm in front of a layer is part of it. `attention, causal` is not a guess: the mask does not depend on any argument,
# so it was computed and compared with a causal one.
#
# What was not taken is listed with the reason. Here is attention with dropout between softmax and values, for which
# there is no kernel:

# %%
dropping = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, dropout_rate=0.1, rngs=nnx.Rngs(0))


def with_dropout(x):
    return dropping(x, mask=nnx.make_causal_mask(x[..., 0]), deterministic=False, rngs=nnx.Rngs(1)).sum()


print(optimize(with_dropout).explain(jnp.zeros((BATCH, LENGTH, WIDTH))))

# %% [markdown]
# ## 4. Are the numbers the same?
#
# They are equal but for rounding: sums have another order. The first call outside of `jit` compares loss and gradients
# with the original's and raises an error that names the place if they differ by more; `check` does it at any time.

# %%
errors = fast_loss.check(params, batches(0))
print(f"largest relative error: {errors.result:.1e} of results, {errors.gradient:.1e} of gradients")

# %% [markdown]
# `precision="bfloat16"` rounds the operands of the kernels, as mixed precision does. Its errors are some ten thousand
# times as large, which is why you have to ask for it. It is worth it on processors that have instructions for
# bfloat16.

# %%
rounded = optimize(loss, precision="bfloat16").check(params, batches(0))
print(f"bfloat16: {rounded.result:.1e} of results, {rounded.gradient:.1e} of gradients")

# %% [markdown]
# `only=["attention"]` and `without=["norm"]` choose what is taken, `implementations={"dense": "xla"}` by what.
#
# ## 5. Is it faster, and does it learn the same?
#
# `compare_losses` makes a training step of each of the two functions, trains both in turns on the same batches, and
# judges them, with a placebo and a known delay as controls. The notebook `is_it_real` is about how it cannot be
# fooled.

# %%
result = compare_losses(
    loss,
    fast_loss,
    params,
    batches,
    optimizer=optax.adamw(1e-3),
    evaluate=jax.jit(lambda params: losses(params, HELDOUT).mean(axis=1)),
    steps=160,
    block_steps=20,
    items_per_step=BATCH * LENGTH,
    chance_loss=float(np.log(VOCABULARY)),
    control_blocks=8,
    name="kernels_in_your_own_model",
    log=print,
)

# %%
print(result.summary())

# %%
display(result)

# %% [markdown]
# If it says PASS, keep the line. If it says INCONCLUSIVE or FAIL, the summary names the criterion or the control that
# says so: the machine was too noisy, the model is too small for kernels to matter, or XLA is as good here.
#
# ## 6. Your own model
#
# * Any function of arrays will do: `optimize(loss)`, then `explain` with your parameters and a batch, for which
#   `jax.ShapeDtypeStruct`s are enough.
# * A place that you expected and that is not in the table has its reason below it. If it has none, no pattern has that
#   spelling yet: docs/optimize.md lists those that are found.
# * Functions with a `custom_vjp` of your own are left as they are.
# * From a shell: `ryot optimize --function=model.py:loss` explains and compares a function in a file.
