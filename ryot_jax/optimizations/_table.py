"""The table of switches in README.md, generated from the declarations."""

from collections.abc import Sequence

from ryot_jax.optimizations import OPTIMIZATIONS, Optimization

BEGIN = "<!-- switches: written by `python -m ryot_jax.optimizations` -->"
END = "<!-- end of switches -->"


def table() -> str:
    """A Markdown table with one row for each optimization."""
    rows = [
        ("switch", "what it does", "implementations", "promises"),
        ("---",) * 4,
        *((f"`{o.switch}`", _description(o), _implementations(o), _promises(o)) for o in OPTIMIZATIONS),
    ]
    return "".join(f"| {' | '.join(row)} |\n" if row[0] != "---" else f"|{'|'.join(row)}|\n" for row in rows)


def updated(text: str) -> str:
    """The text with the table between the marks replaced.

    Raises:
      ValueError: the text does not contain each mark exactly once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end or END in after or BEGIN in rest:
        raise ValueError(f"the marks {BEGIN} and {END} must stand in the text, in this order, each once")
    del old
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def _description(optimization: Optimization) -> str:
    return "; ".join(filter(None, (optimization.description, optimization.note)))


def _implementations(optimization: Optimization) -> str:
    described = []
    for name in optimization.alternatives:
        where = optimization.implementations[name].where
        described.append(f"`{name}`" + (f" ({where})" if where else ""))
    return ", ".join(described)


def _promises(optimization: Optimization) -> str:
    by_promise: dict[str, list[str]] = {}
    for name in optimization.alternatives:
        by_promise.setdefault(optimization.implementations[name].equivalence, []).append(name)
    if len(by_promise) == 1:
        return next(iter(by_promise))
    return ", ".join(f"{promise} ({_quoted(names)})" for promise, names in by_promise.items())


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
