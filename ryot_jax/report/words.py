"""Formats of numbers and names, the same in every report, as plain ASCII strings."""

from collections.abc import Sequence

from ryot_jax.comparison.schema import ArmResult, Results

NOTHING = "n/a"


def number(value: float | None, form: str = ".3f", unit: str = "") -> str:
    """`value` in format `form` followed by `unit`; `n/a` for None."""
    return NOTHING if value is None else f"{value:{form}}{unit}"


def scaled(value: float | None, scale: float, form: str = ",.1f") -> str:
    """`value / scale` in format `form`; `n/a` for None."""
    return NOTHING if value is None else f"{value / scale:{form}}"


def mebibytes(value: float | None) -> str:
    """Bytes as a number of MiB; `n/a` for None."""
    return scaled(value, 2**20)


def duration(value: float | None, scale: float = 1.0) -> str:
    """`value / scale` as seconds or milliseconds: one decimal, more of them below 100; `n/a` for None."""
    if value is None:
        return NOTHING
    value /= scale
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def percent(value: float | None, form: str = ".1f") -> str:
    """A share in per cent: `1.2 %` for 0.012; `n/a` for None."""
    return NOTHING if value is None else f"{100 * value:{form}} %"


def interval(ci: Sequence[float] | None, form: str = ".3f") -> str:
    """An interval as `0.981 to 1.002`; a phrase for None."""
    return "no interval" if ci is None else f"{ci[0]:{form}} to {ci[1]:{form}}"


def counted(n: int, unit: str) -> str:
    """A number with its unit in the right number: `16 block pairs`, `1 process`, `3 processes`."""
    return f"{n:,} {unit}" if n == 1 else f"{n:,} {unit}{'es' if unit.endswith('s') else 's'}"


def spaced(name: str) -> str:
    """The name of a field as words: `known delay` for `known_delay`."""
    return name.replace("_", " ")


def ordered_arms(results: Results) -> dict[str, ArmResult]:
    """The arms with the baseline first, as a JSON file may hold them in any order."""
    return results.ordered_arms


def of_language_model(results: Results) -> bool:
    """Whether the run trained this package's models, and not user-supplied step functions (`comparison.compare`)."""
    return "unigram" in results.entropies


def pick(results: Results, ours: str, supplied: str) -> str:
    """`ours` for a run of this package's models, `supplied` for one of user-supplied step functions."""
    return ours if of_language_model(results) else supplied


def loss_name(results: Results) -> str:
    """Name of the loss: `held-out loss`, or `training loss` if nothing was held out."""
    return results.settings.loss_name


def loss_unit(results: Results) -> str:
    """Unit of the loss with a leading space: ` nats/token`, or '' for user-supplied losses."""
    return " nats/token" if of_language_model(results) else ""


def titled(name: str, unit: str) -> str:
    """A name with its unit: `held-out loss (nats/token)`; the name alone without a unit."""
    return f"{name} ({unit.strip()})" if unit else name


def item_name(results: Results) -> str:
    """Unit of throughput: tokens, or the items of a user-supplied batch."""
    return "token" if of_language_model(results) else "item"
