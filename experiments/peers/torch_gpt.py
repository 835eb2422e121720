"""Worker: the same model in PyTorch, optimized as its documentation recommends.

    pip install torch==2.13.0 numpy
    echo 'block 10' | LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 \
        MALLOC_CONF=oversize_threshold:1,background_thread:true,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1 \
        python -m experiments.peers.torch_gpt --task=/tmp/task --precision=bfloat16 --compile --attention=explicit

Fused projections, `torch.compile` of model and loss (inductor), bfloat16 autocast, fused AdamW, one thread per core,
denormals flushed, and jemalloc as recommended by PyTorch's own tuning guide. Attention is `fused`, which is
F.scaled_dot_product_attention as in the documentation, or `explicit`, two products and a masked softmax for inductor to
fuse: the backward pass of the former is slow on CPUs. `--mode` is that of `torch.compile`. `--device=cuda` runs the
same on an NVIDIA GPU, where TF32 is allowed for operations that autocast leaves in float32.

Tried on a 2-core AMD EPYC with AVX512-BF16 and left out: mode max-autotune (compiles longer, not faster), thread
pinning by OMP_PROC_BIND (torch then uses one thread), the glibc setting of our own program (twice as slow).

Needs nothing of this repository but the worker's protocol, and no JAX.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

from experiments.peers.worker import answers, cores, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--attention", choices=("fused", "explicit"), default="fused")
    parser.add_argument("--mode", default="default", help="of torch.compile")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    answer = answers()

    import numpy as np
    import torch

    torch.set_num_threads(cores())
    torch.set_flush_denormal(True)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    config = json.loads((options.task / "config.json").read_text(encoding="utf-8"))
    with np.load(options.task / "weights.npz") as arrays:
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tokens_nBT = torch.from_numpy(np.load(options.task / "tokens.npy").astype(np.int64))
    batches = [tuple(part.contiguous().to(device) for part in (w[:, :-1], w[:, 1:])) for w in tokens_nBT]

    model = make_model(config["model"], weights, options.attention).to(device)
    optimizer = make_optimizer(model, config["training"])
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")

    def mean_loss(inputs, targets):
        logits_BTV = model(inputs)
        return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten())

    with torch.no_grad(), autocast:
        initial_loss = float(mean_loss(*batches[0]))
    loss_fn = torch.compile(mean_loss, mode=options.mode) if options.compile else mean_loss
    endless, taken = itertools.cycle(batches), itertools.count()

    def run_steps(n):
        for inputs, targets in itertools.islice(endless, n):
            set_learning_rate(optimizer, config["training"], next(taken))
            with autocast:
                loss = loss_fn(inputs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config["training"]["clip_norm"], foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    allocator = "jemalloc" if "jemalloc" in Path("/proc/self/maps").read_text(encoding="utf-8") else "default"
    how = f"torch.compile ({options.mode})" if options.compile else "eager"
    how += f", {options.attention} attention"
    serve(
        answer,
        run_steps,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        initial_loss=initial_loss,
        versions={"torch": torch.__version__},
        notes=f"{how}, {options.precision}, {torch.get_num_threads()} threads; allocator: {allocator}",
    )


def make_model(sizes, weights, attention_name):
    """GPT-2 with our weights: learned positions, pre-norm, gelu (tanh form), tied embedding."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, heads = sizes["d_model"], sizes["n_heads"]

    def explicit_attention(q_BHTK, k_BHTK, v_BHTK):
        T, K = q_BHTK.shape[2:]
        scores_BHTT = (q_BHTK * K**-0.5) @ k_BHTK.transpose(2, 3)
        hidden_TT = torch.ones(T, T, dtype=torch.bool).triu(1)
        return scores_BHTT.masked_fill(hidden_TT, -math.inf).softmax(-1).to(v_BHTK.dtype) @ v_BHTK

    def fused_attention(q_BHTK, k_BHTK, v_BHTK):
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)

    attention = {"fused": fused_attention, "explicit": explicit_attention}[attention_name]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm = nn.LayerNorm(width, eps=1e-5)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.mlp_norm = nn.LayerNorm(width, eps=1e-5)
            self.up = nn.Linear(width, sizes["d_ff"])
            self.down = nn.Linear(sizes["d_ff"], width)

        def forward(self, x_BTD):
            B, T, D = x_BTD.shape
            qkv = self.qkv(self.attention_norm(x_BTD)).view(B, T, 3, heads, D // heads)
            q_BHTK, k_BHTK, v_BHTK = (part.transpose(1, 2) for part in qkv.unbind(2))
            o_BHTK = attention(q_BHTK, k_BHTK, v_BHTK)
            x_BTD = x_BTD + self.out(o_BHTK.transpose(1, 2).reshape(B, T, D))
            return x_BTD + self.down(F.gelu(self.up(self.mlp_norm(x_BTD)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(sizes["vocab_size"], width)
            self.positions = nn.Embedding(sizes["max_len"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(sizes["n_layers"]))
            self.final_norm = nn.LayerNorm(width, eps=1e-5)

        def forward(self, tokens_BT):
            x_BTD = self.embedding(tokens_BT) + self.positions.weight[: tokens_BT.shape[1]]
            for block in self.blocks:
                x_BTD = block(x_BTD)
            return F.linear(self.final_norm(x_BTD), self.embedding.weight)

    model = GPT()

    def fill(module, path):
        with torch.no_grad():
            if isinstance(module, nn.LayerNorm):
                module.weight.copy_(weights[f"{path}/scale"])
            else:
                module.weight.copy_(weights[f"{path}/kernel"].T)
            module.bias.copy_(weights[f"{path}/bias"])

    with torch.no_grad():
        model.embedding.weight.copy_(weights["embedding"])
        model.positions.weight.copy_(weights["positions"])
    fill(model.final_norm, "final_norm")
    for i, block in enumerate(model.blocks):
        path = f"blocks/layer_{i:03d}"
        fill(block.attention_norm, f"{path}/attention_norm")
        fill(block.qkv, f"{path}/attention/qkv")
        fill(block.out, f"{path}/attention/out")
        fill(block.mlp_norm, f"{path}/mlp_norm")
        fill(block.up, f"{path}/mlp/up")
        fill(block.down, f"{path}/mlp/down")
    return model


def make_optimizer(model, training):
    """Fused AdamW; weight decay on matrices only."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": training["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(training["b1"], training["b2"]), eps=1e-8, fused=True)


def set_learning_rate(optimizer, training, step):
    """Set the rate of a step: linear warm-up and cosine decay, as in `ryot_jax.training.optimizer`."""
    warmup, total = training["warmup_steps"], training["epochs"] * training["steps_per_epoch"]
    if step < warmup:
        share = (step + 1) / warmup
    else:
        done = min((step + 1 - warmup) / (total + 1 - warmup), 1.0)
        share = 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = training["learning_rate"] * share


if __name__ == "__main__":
    main()
