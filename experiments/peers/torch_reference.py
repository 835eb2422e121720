"""Ten losses of the baseline's training by PyTorch, which a test requires our baseline to reproduce.

    pip install torch==2.13.0 numpy
    python -m experiments.peers.task --config=tests/training/reference/config.json --folder=tests/training/reference
    python -m experiments.peers.torch_reference --task=tests/training/reference

The first command needs this repository and writes the initial weights and the batches; the second needs PyTorch and
NumPy alone. It trains in float32 on one thread, without compilation, and writes `losses.json` into the task's folder:
the loss of each batch before its step, in nats per token. The test is tests/training/test_reference_losses.py.
"""

import argparse
import json
import platform
from pathlib import Path

from experiments.peers.torch_gpt import make_model, make_optimizer, set_learning_rate

STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True, help="folder with config.json, weights.npz and tokens.npy")
    options = parser.parse_args()

    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    config = json.loads((options.task / "config.json").read_text(encoding="utf-8"))
    with np.load(options.task / "weights.npz") as arrays:
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tokens_nBT = torch.from_numpy(np.load(options.task / "tokens.npy").astype(np.int64))
    model = make_model(config["model"], weights, "explicit")
    optimizer = make_optimizer(model, config["training"])

    losses, norms = [], []
    for step, window_BT in enumerate(tokens_nBT[:STEPS]):
        set_learning_rate(optimizer, config["training"], step)
        logits_BTV = model(window_BT[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), window_BT[:, 1:].flatten())
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config["training"]["clip_norm"])))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    record = {
        "command": f"python -m experiments.peers.torch_reference --task={options.task}",
        "torch": torch.__version__,
        "processor": _processor(),
        "losses": losses,
        "gradient_norms": norms,
    }
    (options.task / "losses.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    """The CPU's name, according to Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
