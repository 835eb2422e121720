"""The target and the outcome of a criterion in words, from its readings."""

from collections.abc import Sequence

from ryot_jax.comparison.schema import Reading
from ryot_jax.comparison.statistics import Interval
from ryot_jax.comparison.verdict.declaration import Quantity, Terms, Values, resolve

Judged = Sequence[tuple[Quantity, Reading]]


def target(judged: Judged, terms: Terms) -> str:
    """The target of a criterion in words."""
    parts = (resolve(quantity.target, terms).format(threshold=reading.threshold) for quantity, reading in judged)
    return ", ".join(part for part in parts if part)


def actual(judged: Judged, terms: Terms) -> str:
    """The measured values of a criterion in words."""
    parts = (_outcome(quantity, reading, terms) for quantity, reading in judged)
    return "; ".join(part for part in parts if part)


def counted(n: int, unit: str) -> str:
    """A number with its unit in the right number: `16 block pairs`, `1 process`, `3 processes`."""
    return f"{n} {unit}" if n == 1 else f"{n} {unit}{'es' if unit.endswith('s') else 's'}"


def is_identical(reading: Reading) -> bool:
    """Whether paired values are equal to the last bit, and so without a spread to take an interval from."""
    return reading.estimate == 0.0 and reading.ci95 is None and (reading.count or 0) > 1


def is_below(reading: Reading) -> bool:
    """Whether the interval lies wholly below the range that it must be in."""
    if reading.comparison != "within" or reading.ci95 is None or reading.threshold is None:
        return False
    return reading.ci95[1] < -reading.threshold


def _outcome(quantity: Quantity, reading: Reading, terms: Terms) -> str:
    count = "" if reading.count is None else counted(reading.count, reading.over)
    if reading.values:
        values, against = (_each(v, quantity) for v in (reading.values, reading.against))
        return quantity.actual.format(values=values, against=against, count=count)
    if reading.estimate is None:
        return quantity.missing.format(over=reading.over) if quantity.actual else ""
    if reading.comparison in ("within", "at most") and is_identical(reading):
        return f"identical on {count}"
    interval = _interval(reading.ci95, quantity.form)
    words = quantity.actual.format(estimate=f"{reading.estimate:{quantity.form}}", interval=interval, count=count)
    return words + (resolve(quantity.too_low, terms) if is_below(reading) else "")


def _each(values: Values, quantity: Quantity) -> str:
    """The value of each arm; its range where there are several training pairs."""
    words = {}
    for name, found in values.items():
        known = [value for value in found if value is not None]
        if len(known) < len(found) or not known:
            words[name] = "not measured"
            continue
        low, high = (f"{bound(known):{quantity.form}}" for bound in (min, max))
        words[name] = (low if low == high else f"{low} to {high}") + quantity.suffix
    return next(iter(words.values())) if len(words) == 1 else ", ".join(f"{n} {text}" for n, text in words.items())


def _interval(ci: Interval | None, form: str) -> str:
    return "(no interval)" if ci is None else f"({ci[0]:{form}} to {ci[1]:{form}})"
