"""`report.html`: the report of a run as one self-contained page without scripts.

A pure function of the results. Jinja2 escapes all text; only the plots' SVG elements are inserted unescaped.
"""

from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from ryot_jax.comparison.schema import Results
from ryot_jax.report import document, plots
from ryot_jax.report.parts import Pictures, Section
from ryot_jax.runtime.console import printable


def _printable(value: Any) -> Any:
    """The value without control characters and lone surrogates, which HTML does not allow."""
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


def render(results: Results, drawn: Mapping[str, plots.Drawn] | None = None) -> str:
    """Renders the report as an HTML page.

    Args:
      results: the results of the run.
      drawn: their plots, if they are drawn already.
    """
    sections = document.sections(results)
    return _TEMPLATES.get_template("report.html").render(
        name=results.name,
        verdict=results.verdict,
        sections=sections,
        drawn=_elements(sections, plots.draw(results) if drawn is None else drawn),
    )


def framed(results: Results, height: str = "40rem") -> Markup:
    """Renders the report as a frame for another page, such as a notebook, isolated from its styles and scripts.

    Args:
      results: the results of the run.
      height: height of the frame in CSS units; longer reports scroll within it.
    """
    frame = '<iframe title="Report: {}" sandbox srcdoc="{}" style="width: 100%; height: {}; border: 0"></iframe>'
    return Markup(frame).format(_printable(results.name), render(results), height)


def _elements(sections: list[Section], drawn: Mapping[str, plots.Drawn]) -> dict[str, Markup]:
    """The plots of the sections that have data, by name."""
    names = [
        name for section in sections for part in section.parts if isinstance(part, Pictures) for name in part.names
    ]
    return {name: Markup(drawn[name].svg()) for name in names if name in drawn}
