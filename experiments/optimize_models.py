"""Which part of other people's models does `optimize` take, unmodified?

    pip install --no-deps transformers==4.57.1 'huggingface_hub<1' equinox dm-haiku     # and what they ask for
    python -m experiments.optimize_models --write

Random weights, small sizes; a library that is not installed is told. For each model: the places that ops take, their
part of the FLOPs of all products of matrices and of the bytes that all other equations read and write, the errors of
results and gradients, and the seconds of tracing and matching. Goal: at least 95 % of the FLOPs in at least 8 models.
"""

import argparse
import collections
import sys
import time

from experiments.lib import record
from experiments.lib.other_models import MODELS, Sizes
from ryot_jax import optimize

SHARE, COUNT = 0.95, 8


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=sorted(MODELS), help="names of models")
    parser.add_argument("--explain", action="store_true", help="print what was found in each")
    parser.add_argument("--write", action="store_true", help="write experiments/results/optimize_models.md")
    options = parser.parse_args(words)
    rows, notes, reached = [], [], 0
    for name in options.only or MODELS:
        try:
            model = MODELS[name](Sizes())
        except ImportError as error:
            notes.append(f"{name}: not tried, {error}.")
            continue
        fast, args = optimize(model.loss), model.arguments
        start = time.perf_counter()
        found = fast.explain(*args)
        seconds = time.perf_counter() - start
        if options.explain:
            print(f"\n{name}: {found}")
        errors = fast.check(*args)
        reached += found.share >= SHARE
        counts: collections.Counter[str] = collections.Counter()
        for row in found.taken:
            counts[row[1]] += row[0]
        places = ", ".join(f"{count} {what}" for what, count in counts.items())
        left = "; ".join(f"{count} {what}: {reason}" for count, what, _, _, reason in found.left) or "nothing"
        figures = (
            f"{found.share:.1%}",
            f"{found.bytes_share:.1%}",
            f"{errors.result:.0e}",
            f"{errors.gradient:.0e}",
            f"{seconds:.1f}",
        )
        rows.append((name, *figures, places, left))
    header = (
        "model",
        "of the FLOPs",
        "of other bytes",
        "error of results",
        "of gradients",
        "seconds",
        "taken",
        "left alone",
    )
    goal = f"models with {SHARE:.0%} of the FLOPs", f"at least {COUNT}", str(reached)
    return record.conclude(
        "optimize_models",
        "Other people's models through optimize",
        command=record.command("experiments.optimize_models", words),
        tables=[record.Table("models", header, rows)],
        criteria=[record.Criterion(*goal, "PASS" if reached >= COUNT else "FAIL")],
        notes=notes,
        write=options.write,
    )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
