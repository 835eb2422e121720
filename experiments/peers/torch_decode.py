"""Worker: greedy decoding of the same model in eager PyTorch with a KV cache, written as fast as we can.

    pip install torch==2.13.0 numpy
    echo 'block 4' | python -m experiments.peers.torch_decode --task=/tmp/task --batch=1 --precision=float32

A step of a block is one call: a prompt, then as many tokens as the task specifies. The cache is allocated once and
written in place, attention reads it up to the current position only, weights are fused and transposed once, nothing is
recorded for gradients, and Python reads no token before the end of the call. `--threads` 1 is faster than 2 for one
sequence on some machines; the caller takes the best.

Needs nothing of this repository but the worker's protocol, and no JAX.
"""

import argparse
import itertools
import json
from pathlib import Path

from experiments.peers.worker import answers, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    answer = answers()

    import numpy as np
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.set_grad_enabled(False)
    config = json.loads((options.task / "config.json").read_text(encoding="utf-8"))
    sizes, new_tokens = config["model"], config["new_tokens"]
    dtype = getattr(torch, options.precision)
    with np.load(options.task / "weights.npz") as arrays:
        w = {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}
    prompts_nS = torch.from_numpy(np.load(options.task / "prompts.npy").astype(np.int64))
    B, H, D = options.batch, sizes["n_heads"], sizes["d_model"]
    S, K = prompts_nS.shape[1], D // H
    layers = [
        {
            "norms": [(w[f"{path}/{name}/scale"], w[f"{path}/{name}/bias"]) for name in ("attention_norm", "mlp_norm")],
            **{
                name: (w[f"{path}/{name}/kernel"].T.contiguous(), w[f"{path}/{name}/bias"])
                for name in ("attention/qkv", "attention/out", "mlp/up", "mlp/down")
            },
            "cache": torch.zeros(2, B, H, S + new_tokens, K, dtype=dtype),
        }
        for path in (f"blocks/layer_{i:03d}" for i in range(sizes["n_layers"]))
    ]  # fmt: skip

    def features(tokens_BT, start):
        T = tokens_BT.shape[1]
        x_BTD = F.embedding(tokens_BT, w["embedding"]) + w["positions"][start : start + T]
        for layer in layers:
            h_BTD = F.layer_norm(x_BTD, (D,), *layer["norms"][0], 1e-5)
            qkv_3BHTK = F.linear(h_BTD, *layer["attention/qkv"]).view(B, T, 3, H, K).permute(2, 0, 3, 1, 4)
            layer["cache"][:, :, :, start : start + T] = qkv_3BHTK[1:]
            k_BHTK, v_BHTK = layer["cache"][:, :, :, : start + T]
            o_BHTK = F.scaled_dot_product_attention(qkv_3BHTK[0], k_BHTK, v_BHTK, is_causal=T > 1)
            x_BTD = x_BTD + F.linear(o_BHTK.transpose(1, 2).reshape(B, T, D), *layer["attention/out"])
            h_BTD = F.layer_norm(x_BTD, (D,), *layer["norms"][1], 1e-5)
            x_BTD = x_BTD + F.linear(F.gelu(F.linear(h_BTD, *layer["mlp/up"]), approximate="tanh"), *layer["mlp/down"])
        return F.layer_norm(x_BTD, (D,), w["final_norm/scale"], w["final_norm/bias"], 1e-5)

    def generate(prompt_BS):
        ids_BN = torch.empty(B, new_tokens, dtype=torch.int64)
        token_B1 = F.linear(features(prompt_BS, 0)[:, -1:], w["embedding"]).argmax(-1)
        for i in range(new_tokens):
            ids_BN[:, i : i + 1] = token_B1
            if i + 1 < new_tokens:
                token_B1 = F.linear(features(token_B1, S + i), w["embedding"]).argmax(-1)
        return ids_BN

    first_BS = prompts_nS[:B]
    logits_BTV = F.linear(features(first_BS, 0), w["embedding"]).float()
    loss = float(F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), first_BS[:, 1:].flatten()))
    batches = itertools.cycle(prompts_nS[: len(prompts_nS) // B * B].split(B))

    def run_steps(n):
        for _ in range(n):
            ids_BN = generate(next(batches))
        return float(ids_BN[0, -1])

    serve(
        answer,
        run_steps,
        parameters=sum(array.numel() for array in w.values()),
        initial_loss=loss,
        versions={"torch": torch.__version__},
        notes=f"eager, {options.precision}, {torch.get_num_threads()} threads",
    )


if __name__ == "__main__":
    main()
