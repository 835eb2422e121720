"""`report.md`: the whole report of a run for reading and for pasting into a pull request.

A pure function of the results dict; text that came from a person is escaped so that it stays text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ryot_jax.report import summary
from ryot_jax.report.summary import Results, interval, number

_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")


def render(results: Results, plots: Mapping[str, str]) -> str:
    """The report as Markdown.

    Args:
      results: content of `results.json`.
      plots: file of each plot relative to the report, by the names in `plots.PLOTS`.
    """
    header, rows = summary.deltas(results)
    parts = [
        f"# {escape(results['name'])}: {results['verdict']}",
        "## Executive summary",
        escape(summary.headline(results)),
        _bullets(f"Warning: {warning}" for warning in results["warnings"]),
        "## Baseline, optimized, delta" if len(results["arms"]) == 2 else "## Training",
        _table(header, rows, numeric=True),
        *_comparison(results),
        "## Success criteria",
        _table(("criterion", "target", "actual", "verdict"), summary.criteria_rows(results)),
        "## Convergence",
        _picture(plots, "convergence", "Held-out loss against training steps, with the unigram and bigram entropy"),
        "## Epochs",
        _epochs(results),
        _picture(plots, "step_time", "Milliseconds per step and speed-up of each block pair"),
        "## Optimizations",
        _optimizations(results),
        "## Data and machine",
        _facts(results),
        "## Artifacts",
        _table(("artifact", "path"), list(results["artifacts"].items())),
        "## What this does not show",
        _bullets(summary.not_shown(results)),
        "## What next",
        _bullets(summary.next_steps(results)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: Any) -> str:
    """`text` on one line with everything that Markdown or HTML would read as markup made plain."""
    line = " ".join(str(text).split())
    line = "".join(c for c in line if c.isprintable())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _comparison(results: Results) -> list[str]:
    comparison = results["comparison"]
    if comparison is None:
        return []
    speed, loss = comparison["step_time_speedup"], comparison["heldout_loss_difference"]
    rows = [
        (
            "step-time speed-up (geometric mean of block ratios)",
            number(speed["estimate"], ".4f"),
            interval(speed["ci95"], ".4f"),
            f"{speed['pairs']} block pairs",
        ),
        ("step-time speed-up (median)", number(speed["median"], ".4f"), "", f"{speed['pairs']} block pairs"),
        ("p of the sign-flip test (no speed-up)", number(speed["p_sign_flip"], ".2g"), "", "two-sided"),
        (
            "held-out loss, optimized - baseline (nats/token)",
            number(loss["estimate"], "+.5f"),
            interval(loss["ci95"], "+.5f"),
            f"{loss['sequences']} sequences, correlation {number(loss['correlation'], '.4f')}",
        ),
    ]
    return ["## Effect", _table(("", "estimate", "95 % interval", "from"), rows)]


def _epochs(results: Results) -> str:
    arms = summary.ordered_arms(results)
    header = ["epoch"]
    for name in arms:
        header += [f"{name} train loss", "held-out loss", "seconds", "tokens/s"]
    by_epoch: dict[int, list[str]] = {}
    for arm in arms.values():
        for e in arm["epochs"]:
            by_epoch.setdefault(e["epoch"], [str(e["epoch"])]).extend(
                (
                    number(e["train_loss"], ".4f"),
                    number(e["heldout_loss"], ".4f"),
                    number(e["seconds"], ",.1f"),
                    number(e["tokens_per_second"], ",.0f"),
                )
            )
    return _table(header, list(by_epoch.values()), numeric=True)


def _optimizations(results: Results) -> str:
    rows = [
        (
            o["name"],
            o["implementation"],
            "on" if o["active"] else "off",
            o["equivalence"],
            o["evidence"] or o.get("reason", ""),
        )
        for o in results["optimizations"]
    ]
    header = ("optimization", "implementation", "", "promises", "evidence from the compiled program")
    return _table(header, rows)


def _facts(results: Results) -> str:
    rows = [(f"data: {key}", value) for key, value in _flat(results["data"])]
    rows += [
        ("initial weights sha256", results["initial_params_hash"]),
        ("batches sha256", results["batches_hash"]),
    ]
    rows += list(_flat(results["manifest"]))
    return _table(("", ""), rows)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            rows.append((f"{prefix}{key}", summary.NOTHING if shown is None else str(shown)))
    return rows


def _picture(plots: Mapping[str, str], name: str, alt: str) -> str:
    return f"![{alt}]({plots[name]})" if name in plots else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: bool = False) -> str:
    if not rows:
        return "None."
    rule = ["---", *["---:" if numeric else "---"] * (len(header) - 1)]
    lines = [[escape(cell) for cell in row] for row in (header, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def _bullets(sentences: Any) -> str:
    return "\n".join(f"* {escape(sentence)}" for sentence in sentences)
