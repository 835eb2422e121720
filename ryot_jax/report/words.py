"""How numbers and names are put into words, the same in every report.

Plain strings in ASCII; what is said with them is left to `topics`.
"""

from collections.abc import Sequence

from ryot_jax.comparison.schema import ArmResult, Results

NOTHING = "n/a"


def number(value: float | None, form: str = ".3f", unit: str = "") -> str:
    """`value` in format `form` with `unit` behind it; `n/a` for None."""
    return NOTHING if value is None else f"{value:{form}}{unit}"


def scaled(value: float | None, scale: float, form: str = ",.1f") -> str:
    """`value / scale` in format `form`; `n/a` for None."""
    return NOTHING if value is None else f"{value / scale:{form}}"


def mebibytes(value: float | None) -> str:
    """Bytes as a number of MiB; `n/a` for None."""
    return scaled(value, 2**20)


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


def ordered_arms(results: Results) -> dict[str, ArmResult]:
    """The arms, the baseline first: a JSON file may hold them in any order."""
    return results.ordered_arms


def of_language_model(results: Results) -> bool:
    """Whether the run is of this package's models; else of user-supplied step functions (`comparison.compare`)."""
    return "unigram" in results.entropies


def pick(results: Results, ours: str, supplied: str) -> str:
    """The words for a run of this package, or those for user-supplied step functions."""
    return ours if of_language_model(results) else supplied


def loss_name(results: Results) -> str:
    """`held-out loss`, or `training loss` where nothing was held out and training losses stand in."""
    return results.settings.loss_name


def loss_unit(results: Results) -> str:
    """` nats/token` with its blank, or nothing where the loss is not ours."""
    return " nats/token" if of_language_model(results) else ""


def titled(name: str, unit: str) -> str:
    """`held-out loss (nats/token)`; the name alone where there is no unit."""
    return f"{name} ({unit.strip()})" if unit else name


def item_name(results: Results) -> str:
    """Name of the unit of throughput: tokens, or the items of a user-supplied batch."""
    return "token" if of_language_model(results) else "item"
