"""One sweep of a config's learning rate, so that the baseline is a good one.

    python experiments/learning_rate_sweep.py --config=configs/scaled.py

Trains one arm for each rate and seed, everything else as in the config, and writes a table of final held-out losses
to experiments/results/. The arms differ by rounding only (by about 0.001 nats in the final loss), so the faster one is
trained unless --arm=baseline is given. --rates 1e-3 3e-3 sets the rates.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RATES = (2e-3, 3e-3, 6e-3, 1e-2)
RESULTS = Path(__file__).parent / "results"


def train(config: str, arm: str, rate: float, seed: int, workdir: Path) -> dict:
    """The results of one run; its exit code is ignored, as its criteria do not matter here."""
    command = [
        sys.executable, "-m", "ryot_jax.main", f"--config={config}", f"--workdir={workdir}",
        f"--config.training.learning_rate={rate}", f"--config.seed={seed}",
        f"--config.comparison.arms=('{arm}',)", "--config.checkpoint.enabled=False",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    written = sorted(workdir.glob("*/results.json"))
    if not written:
        raise SystemExit(f"learning rate {rate:g}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(written[-1].read_text(encoding="utf-8"))


def table(config: str, rows: list[tuple[float, int, dict]]) -> str:
    """A Markdown table with one row per run."""
    arm_name = next(iter(rows[0][2]["arms"]))
    data = rows[0][2]["data"]["entropies"]
    lines = [
        f"# Learning rate of {Path(config).name}, {arm_name} arm",
        "",
        f"{datetime.date.today()}, {rows[0][2]['manifest']['processor']['model']}, jax "
        f"{rows[0][2]['manifest']['versions']['jax']}; `python experiments/learning_rate_sweep.py --config={config}`.",
        f"Held-out entropy of counts: unigram {data['unigram']:.3f}, bigram {data['bigram']:.3f} nats/token.",
        "",
        "| learning rate | seed | final held-out loss | best | under bigram | final training loss |",
        "|---|---|---|---|---|---|",
    ]
    for rate, seed, results in rows:
        arm = results["arms"][arm_name]
        final = arm["final_heldout_loss"]
        lines.append(
            f"| {rate:g} | {seed} | {final:.4f} | {arm['best_heldout_loss']:.4f} | {data['bigram'] - final:+.3f} | "
            f"{arm['final_train_loss']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--arm", default="optimized")
    arguments = parser.parse_args()
    output = RESULTS / f"learning_rate_{Path(arguments.config).stem}.md"
    rows = []
    for rate in arguments.rates:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as workdir:
                rows.append((rate, seed, train(arguments.config, arguments.arm, rate, seed, Path(workdir))))
            text = table(arguments.config, rows)
            output.parent.mkdir(exist_ok=True)
            output.write_text(text, encoding="utf-8")
            print(text.splitlines()[-1], flush=True)
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
