"""What does `optimize` cost before the first step?

    python -m experiments.optimize_tracing --write

A transformer in Flax Linen with 24 layers, written out and as `nn.scan`: the time of tracing its loss, and of tracing
it and finding every place, the median of several, with JAX's caches emptied before each. The first time is told apart,
as the patterns themselves are traced then. Goal: at most 1.5 times plain tracing and a second. A compiled step has
nothing of it.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable

import jax

from experiments.lib import record
from experiments.lib.other_models import Sizes, linen
from ryot_jax import optimize

SIZES = Sizes(vocabulary=2048, length=128, width=128, heads=4, layers=24, batch=32)
TIMES, SECONDS = 1.5, 1.0


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write experiments/results/optimize_tracing.md")
    options = parser.parse_args(words)
    load = record.others_at_work()
    rows, criteria = [], []
    for way, is_scanned in (("written out", False), ("scanned", True)):
        model = linen(SIZES, is_scanned=is_scanned)
        fast = optimize(model.loss, verify=False)
        plain, matched, first = [], [], _seconds(functools.partial(fast.plan, *model.arguments))
        for _ in range(options.rounds):
            plain.append(_seconds(functools.partial(jax.make_jaxpr(model.loss), *model.arguments)))
            matched.append(_seconds(functools.partial(fast.plan, *model.arguments)))
        without, found = statistics.median(plain), statistics.median(matched)
        places = sum(row[0] for row in fast.explain(*model.arguments).taken)
        rows.append((way, f"{places}", f"{without:.2f}", f"{found:.2f}", f"{first:.2f}", f"{found / without:.2f}"))
        criteria.append(record.at_most(f"{way}: seconds", max(found, first), TIMES * without + SECONDS, ".2f"))
    header = ("24 layers", "places", "traced, s", "traced and found, s", "the first time, s", "ratio")
    return record.conclude(
        "optimize_tracing",
        "Tracing and matching",
        command=record.command("experiments.optimize_tracing", words),
        tables=[record.Table("seconds", header, rows)],
        criteria=criteria,
        notes=[load],
        write=options.write,
    )


def _seconds(run: Callable[[], object]) -> float:
    jax.clear_caches()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
