"""How numbers and names are put into words, the same in every report.

Plain strings in ASCII; what is said with them is left to `summary` and `tables`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]
NOTHING = "n/a"


def number(value: float | None, form: str = ".3f", unit: str = "") -> str:
    """`value` in format `form` with `unit` behind it; `n/a` for None."""
    return NOTHING if value is None else f"{value:{form}}{unit}"


def scaled(value: float | None, scale: float, form: str = ",.1f") -> str:
    """`value / scale` in format `form`; `n/a` for None."""
    return NOTHING if value is None else f"{value / scale:{form}}"


def duration(value: float | None, scale: float = 1.0) -> str:
    """`value / scale` as a number of seconds or milliseconds: a decimal, and more of them below 100; `n/a` for None."""
    if value is None:
        return NOTHING
    value /= scale
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def percent(value: float | None, form: str = ".1f") -> str:
    """`1.2 %` for 0.012; `n/a` for None."""
    return NOTHING if value is None else f"{100 * value:{form}} %"


def interval(ci: Sequence[float] | None, form: str = ".3f") -> str:
    """`0.981 to 1.002`, or that there is none."""
    return "no interval" if ci is None else f"{ci[0]:{form}} to {ci[1]:{form}}"


def counted(n: int, unit: str) -> str:
    """`16 block pairs`, `1 process`, `3 processes`."""
    return f"{n:,} {unit}" if n == 1 else f"{n:,} {unit}{'es' if unit.endswith('s') else 's'}"


def spaced(name: str) -> str:
    """A field's name as words: `known_delay` is `known delay`."""
    return name.replace("_", " ")


def ordered_arms(results: Results) -> dict[str, Mapping[str, Any]]:
    """The arms, the baseline first: a JSON file may hold them in any order."""
    comparison = results["comparison"]
    names = list(results["arms"]) if comparison is None else [comparison["baseline"], comparison["optimized"]]
    return {name: results["arms"][name] for name in names}


def of_language_model(results: Results) -> bool:
    """Whether the run is one of this package's models; else two step functions were brought (`comparison.compare`)."""
    return "unigram" in results["data"]["entropies"]


def loss_name(results: Results) -> str:
    """`held-out loss`, or `training loss` where nothing was held out and training losses stand in."""
    return "held-out loss" if results["settings"].get("held_out", True) else "training loss"


def loss_unit(results: Results) -> str:
    """` nats/token` with its blank, or nothing where the loss is not ours."""
    return " nats/token" if of_language_model(results) else ""


def titled(name: str, unit: str) -> str:
    """`held-out loss (nats/token)`; the name alone where there is no unit."""
    return f"{name} ({unit.strip()})" if unit else name


def item_name(results: Results) -> str:
    """What throughput counts: tokens, or the items of a batch that somebody else brought."""
    return "token" if of_language_model(results) else "item"


def traffic_bytes(arm: Mapping[str, Any]) -> float | None:
    """Bytes a step between processor and memory, what caches may keep left out, of an arm of the roofline."""
    return None if arm["bytes"] is None else arm["bytes"] - (arm.get("cached_bytes") or 0)
