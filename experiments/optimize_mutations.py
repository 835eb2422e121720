"""Does `optimize` ever give a wrong number?

    python -m experiments.optimize_mutations --write

Every spelling of experiments/lib/spellings.py is changed in one equation, drawn at random: a result is scaled, shifted,
negated, rolled, turned around or used twice, a number or an operation is another one. The optimized program is compared
with the program as it is written, in results and gradients. Programs whose float32 results are no numbers in both are
counted apart. About a second for each program; the goal is no wrong number and no error in 2,000.
"""

import argparse
import collections
import sys

import jax
import numpy as np

from experiments.lib import mutations, record
from experiments.lib.spellings import CASES
from ryot_jax.rewriting.check import MismatchError


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write experiments/results/optimize_mutations.md")
    options = parser.parse_args(words)
    jax.config.update("jax_disable_most_optimizations", True)  # programs run once
    rng = np.random.default_rng(options.seed)
    taken: collections.Counter[str] = collections.Counter()
    drawn: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    largest = 0.0
    for i in range(options.programs):
        kind, name = CASES[rng.integers(len(CASES))]
        change = sorted(mutations.CHANGES)[rng.integers(len(mutations.CHANGES))]
        case = kind, name, int(rng.integers(200)), change, bool(rng.integers(2)), int(rng.integers(1000))
        drawn[change] += 1
        try:
            sites, found = mutations.compare(*case)
        except MismatchError as mismatch:
            wrong.append(f"{case}: {mismatch}")
            print(wrong[-1], flush=True)
        except Exception as error:  # any is a finding
            wrong.append(f"{case}: {type(error).__name__}: {error}")
            print(wrong[-1][:600], flush=True)
        else:
            taken[change] += sites > 0
            largest = max(largest, found)
        record.progress(i + 1, options.programs)
        if i % 200 == 199:
            jax.clear_caches()
    rows = [(change, f"{count:,}", f"{taken[change]:,}") for change, count in sorted(drawn.items())]
    return record.conclude(
        "optimize_mutations",
        "Programs around the patterns of optimize",
        command=record.command("experiments.optimize_mutations", words),
        tables=[record.Table("programs", ("change", "drawn", "with ops in them"), rows)],
        criteria=[
            record.Criterion(
                "programs with a wrong number or an error", "0", str(len(wrong)), "FAIL" if wrong else "PASS"
            )
        ],
        notes=[f"Largest relative error of a result or a gradient: {largest:.1e}.", *wrong[:20]],
        write=options.write,
    )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
