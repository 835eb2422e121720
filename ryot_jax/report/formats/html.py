"""`report.html`: the whole report of a run as one page that needs no network and runs no script.

A pure function of the results. Jinja2 escapes every word that goes into the page; only the plots, which
`plots.svg` has made, go in as they are.
"""

from typing import Any

import jinja2
from markupsafe import Markup

from ryot_jax.comparison.schema import Results
from ryot_jax.report import document, plots
from ryot_jax.report.parts import Pictures, Section
from ryot_jax.runtime.console import printable


def _printable(value: Any) -> Any:
    """A word of the page without control characters and halves of characters, which no page may hold."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ryot_jax.report"),
    autoescape=True,
    finalize=_printable,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(results: Results) -> str:
    """The report as an HTML page.

    Args:
      results: content of `results.json`.
    """
    sections = document.sections(results)
    return _TEMPLATES.get_template("report.html").render(
        name=results.name,
        verdict=results.verdict,
        sections=sections,
        drawn=_drawn(sections, results),
    )


def framed(results: Results, height: str = "40rem") -> Markup:
    """The report as an element of another page, such as a notebook's, whose styles and scripts it is kept apart from.

    Args:
      results: content of `results.json`.
      height: of the frame in CSS units; longer reports scroll within it.
    """
    frame = '<iframe title="Report: {}" sandbox srcdoc="{}" style="width: 100%; height: {}; border: 0"></iframe>'
    return Markup(frame).format(_printable(results.name), render(results), height)


def _drawn(sections: list[Section], results: Results) -> dict[str, Markup]:
    """Every plot of the sections that there are data for, by its name."""
    names = [
        name for section in sections for part in section.parts if isinstance(part, Pictures) for name in part.names
    ]
    elements = {name: plots.svg(name, results) for name in names}
    return {name: Markup(element) for name, element in elements.items() if element is not None}
