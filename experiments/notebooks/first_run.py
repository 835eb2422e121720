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
# # First run
#
# Train a small transformer language model twice, once as plain JAX and once with every optimization that this machine
# supports; watch it, look at its losses, generate text, and read the report. It works offline: its text is the source
# code of Python's own standard library. About two minutes on two CPU cores.
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
import json

import matplotlib.pyplot as plt
from IPython.display import display

import ryot_jax
from ryot_jax.comparison import Comparison
from ryot_jax.comparison.results import read

# %% [markdown]
# ## Train
#
# A config is a Python file; `configs/` is beside the package in the repository. `smoke` is a first try: it takes
# under a minute, too short for its speed and its losses to mean anything. Write `scaled` for the real thing: 1.1
# million parameters, 800 steps of each arm, 3 to 15 minutes on two CPU cores, depending on the processor.

# %%
NAME = "smoke"
CONFIG = Path(ryot_jax.__file__).parents[1] / "configs" / f"{NAME}.py"


def ryot(*words):
    """Run `ryot` in a separate process, show its output as it comes, and return its exit code."""
    command = [sys.executable, "-m", "ryot_jax.main", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="")
    return process.returncode


exit_code = ryot(f"--config={CONFIG}", "--workdir=runs")

# %% [markdown]
# The exit code is the verdict. INCONCLUSIVE is an answer too: the data do not decide, or a control did not pass, such
# as the known delay of 5 %, which a busy machine may hide. `smoke` is so short that it often ends so. Any other code
# is an error, which the last line above describes.

# %%
VERDICTS = {0: "PASS", 3: "FAIL: a criterion failed", 4: "INCONCLUSIVE"}
if exit_code not in VERDICTS:
    raise RuntimeError(f"ryot ended with exit code {exit_code}")
print(f"exit code {exit_code}: {VERDICTS[exit_code]}")

# %% [markdown]
# ## Look at the losses
#
# Everything is in the run directory. `metrics.jsonl` has a row for each measurement, and `results.json` the results
# of them. The dotted lines come from counts: a model below the upper one has learnt more than how frequent each
# token is, below the lower one more than which token follows which.

# %%
run = sorted(Path("runs").glob(f"*-{NAME}"))[-1]  # the newest: names begin with the time
results = read(run / "results.json")
rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
entropies = results.entropies

figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharex=True, sharey=True, layout="constrained")
for axis, kind, title in zip(axes, ("train", "heldout"), ("training loss", "held-out loss"), strict=True):
    for arm, style, size in (("baseline", "o-", 7), ("optimized", "s--", 3)):
        chosen = [row for row in rows if row["kind"] == kind and row["arm"] == arm]
        axis.plot(
            [row["step"] for row in chosen],
            [row["loss"] for row in chosen],
            style,
            ms=size,
            fillstyle="none",
            label=arm,
        )
    for entropy in (entropies["unigram"], entropies["bigram"]):
        axis.axhline(entropy, color="gray", linestyle=":")
    axis.set(title=title, xlabel="training step")
for counts in ("unigram", "bigram"):
    axes[1].text(0, entropies[counts], f"{counts} entropy", fontsize=8, va="bottom")
axes[0].set_ylabel("nats/token")
axes[0].legend()
plt.show()

# %% [markdown]
# An optimization should give two curves that coincide: the same training, in less time.
#
# ## Generate text
#
# The best checkpoint of the optimized arm continues a prompt. After so short a training, expect letters, not
# code.

# %%
code = ryot("generate", f"--run={run}", "--prompt=def ", "--temperature=0.8", "--top_k=40", "--seed=1")
print("exit code", code)

# %% [markdown]
# ## Read the results
#
# `results.json` is for programs. Two numbers from it, with their intervals:

# %%
speed = results.comparison.step_time_speedup
loss = results.comparison.heldout_loss_difference
low, high = speed.ci95
print(f"speed-up of a step: {speed.estimate:.3f}, 95 % interval {low:.3f} to {high:.3f}")
low, high = loss.ci95
print(f"difference of held-out losses: {loss.estimate:+.4f} nats/token, 95 % interval {low:+.4f} to {high:+.4f}")
print(f"verdict: {results.verdict}")

# %% [markdown]
# `report.html` is for people: one file, no network. A `Comparison` shows it inline. Read the controls before the
# headline: they are comparisons whose right answer is known, and if one of them does not pass, nothing else counts.

# %%
display(Comparison(results))

# %% [markdown]
# ## Where to go next
#
# * Any field of the config can be set: `ryot(f"--config={CONFIG}", "--config.training.optimizer=muon")`.
# * `ryot("--resume=latest")` resumes a stopped run.
# * [`is_it_real.ipynb`](is_it_real.ipynb) does the same comparison with two user-supplied training steps.
# * The [README](../../README.md) has the rest.
