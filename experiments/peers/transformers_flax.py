"""Worker: the GPT-2 of Hugging Face's transformers in Flax, trained as in its run_clm_flax.py, on one device.

    pip install 'transformers<5' jax==0.10.2 flax==0.12.8 optax==0.2.8
    echo 'block 10' | python -m experiments.peers.transformers_flax --task=/tmp/task

It is the only packaged public JAX trainer that runs on a CPU with modest effort; its model has exactly our weights.
Loss (one-hot targets) and step are those of examples/flax/language-modeling/run_clm_flax.py of transformers 4.57;
differences: targets are supplied and not shifted, no pmap, and the gradient is clipped as in every program here.
Float32 and the process's default allocator, as there. transformers 5 no longer has Flax models.

Needs nothing of this repository but the worker's protocol.
"""

import argparse
import itertools
import json
import os
from pathlib import Path

from experiments.peers.worker import answers, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True)
    options = parser.parse_args()
    answer = answers()
    os.environ.update(USE_FLAX="1", USE_TORCH="0", USE_TF="0", HF_HUB_OFFLINE="1")

    import jax
    import numpy as np
    import optax
    import transformers
    from flax.training.common_utils import onehot
    from flax.training.train_state import TrainState

    config = json.loads((options.task / "config.json").read_text(encoding="utf-8"))
    sizes, training = config["model"], config["training"]
    model = transformers.FlaxGPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=sizes["vocab_size"],
            n_positions=sizes["max_len"],
            n_embd=sizes["d_model"],
            n_layer=sizes["n_layers"],
            n_head=sizes["n_heads"],
            n_inner=sizes["d_ff"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
        seed=0,
    )
    with np.load(options.task / "weights.npz") as arrays:
        params = to_gpt2(dict(arrays.items()), sizes["n_layers"])
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, model.params)

    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training["learning_rate"], training["warmup_steps"], training["epochs"] * training["steps_per_epoch"]
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(training["clip_norm"]),
        optax.adamw(
            lambda step: schedule(step + 1),  # the first step has a rate above zero, like ours
            b1=training["b1"],
            b2=training["b2"],
            weight_decay=training["weight_decay"],
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
    )
    state = TrainState.create(apply_fn=model.__call__, params=jax.tree.map(jax.numpy.array, params), tx=optimizer)

    def mean_loss(params, batch):
        logits = model(input_ids=batch["inputs"], params=params, train=False)[0]
        return optax.softmax_cross_entropy(logits, onehot(batch["targets"], logits.shape[-1])).mean()

    def train_step(state, batch):
        loss, grads = jax.value_and_grad(mean_loss)(state.params, batch)
        return state.apply_gradients(grads=grads), loss

    step = jax.jit(train_step, donate_argnums=0)
    tokens_nBT = np.load(options.task / "tokens.npy")
    batches = [{"inputs": window[:, :-1], "targets": window[:, 1:]} for window in tokens_nBT]
    initial_loss = float(jax.jit(mean_loss)(state.params, batches[0]))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
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
        versions={"transformers": transformers.__version__, "jax": jax.__version__},
        notes="float32; the process's default allocator",
    )


def to_gpt2(weights, n_layers):
    """Our weights under the names of transformers; its Conv1D kernels are transposed."""

    def linear(path):
        return {"kernel": weights[f"{path}/kernel"].T, "bias": weights[f"{path}/bias"]}

    def norm(path):
        return {"scale": weights[f"{path}/scale"], "bias": weights[f"{path}/bias"]}

    def block(path):
        return {
            "ln_1": norm(f"{path}/attention_norm"),
            "attn": {"c_attn": linear(f"{path}/attention/qkv"), "c_proj": linear(f"{path}/attention/out")},
            "ln_2": norm(f"{path}/mlp_norm"),
            "mlp": {"c_fc": linear(f"{path}/mlp/up"), "c_proj": linear(f"{path}/mlp/down")},
        }

    transformer = {
        "wte": {"embedding": weights["embedding"]},
        "wpe": {"embedding": weights["positions"]},
        "h": {str(i): block(f"blocks/layer_{i:03d}") for i in range(n_layers)},
        "ln_f": norm("final_norm"),
    }
    return {"transformer": transformer}


if __name__ == "__main__":
    main()
