"""PyTorch's own kernels at the sizes of `experiments.gpu`: forward and backward, as its documentation recommends.

    PYTHON -m experiments.peers.torch_kernels '{"attention": {"batch": 32, ...}, ...}'

Takes sizes as JSON by name, as passed by `experiments.gpu`, and prints median milliseconds by name. Linear +
cross-entropy and layer norm are compiled by inductor, attention is F.scaled_dot_product_attention. Needs PyTorch and a
GPU, and nothing of this repository.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    import torch
    from torch.nn import functional as F

    def linear_cross_entropy(rows, d_model, vocab_size, **_):
        x_ND = torch.randn(rows, d_model, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        w_VD = (d_model**-0.5 * torch.randn(vocab_size, d_model, device="cuda")).requires_grad_()
        targets_N = torch.randint(vocab_size, (rows,), device="cuda")
        loss = torch.compile(lambda: F.cross_entropy(F.linear(x_ND, w_VD.bfloat16()), targets_N, reduction="sum"))
        return lambda: loss().backward(), (x_ND, w_VD)

    def attention(batch, seq_len, n_heads, head_width, **_):
        q, k, v = (
            torch.randn(batch, seq_len, n_heads, head_width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for _ in "qkv"
        )
        o_gradient = torch.randn(batch, n_heads, seq_len, head_width, device="cuda", dtype=torch.bfloat16)

        def call():
            heads = (x.transpose(1, 2) for x in (q, k, v))
            F.scaled_dot_product_attention(*heads, is_causal=True).backward(o_gradient)

        return call, (q, k, v)

    def norm(rows, d_model, **_):
        x_ND = torch.randn(rows, d_model, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        scale_D, bias_D = (torch.randn(d_model, device="cuda", requires_grad=True) for _ in range(2))
        y_gradient, s_gradient = (torch.randn_like(x_ND) for _ in range(2))

        @torch.compile
        def normed():
            return F.layer_norm(x_ND.float(), (d_model,), scale_D, bias_D).bfloat16(), x_ND * 1.0

        return lambda: torch.autograd.backward(normed(), (y_gradient, s_gradient)), (x_ND, scale_D, bias_D)

    makers: dict[str, Callable[..., Any]] = {
        "linear_cross_entropy": linear_cross_entropy,
        "attention": attention,
        "norm": norm,
    }
    found = {}
    for name, sizes in json.loads(sys.argv[1]).items():
        call, leaves = makers[sizes["op"]](**sizes)

        def once(call=call, leaves=leaves):
            for leaf in leaves:
                leaf.grad = None
            call()

        for _ in range(3):
            once()
        times = []
        for _ in range(9):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(5):
                once()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / 5)
        found[name] = 1e3 * sorted(times)[len(times) // 2]
        del call, leaves, once
        torch.cuda.empty_cache()
    print(json.dumps({"milliseconds": found, "version": torch.__version__}))


if __name__ == "__main__":
    main()
