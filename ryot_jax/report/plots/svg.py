"""A matplotlib figure as an SVG element that can stand inside an HTML page."""

import io
import re
import xml.etree.ElementTree as ET

from matplotlib.figure import Figure

from ryot_jax.runtime.console import printable

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG = re.compile(r"-?\d+\.\d{3,}")  # numbers of paths: two digits behind the point are finer than any screen


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as one `<svg>` element with the same bytes every time.

    Its ids begin with `name`, as a page holds many figures; it names no date, no program and no style of the page.

    Args:
      figure: drawn under the settings of `style.STYLE` and a fixed `svg.hashsalt`.
      name: of the figure within its page: letters, digits and underscores.
      title: what the figure shows.
      description: what is seen in it.
    """
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    root = ET.fromstring(buffer.getvalue())  # comments, which hold the plot's texts, go here
    for parent in root.iter():
        for child in list(parent):
            # The metadata are the date and the program; the style would hold for the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.text, element.tail = _packed(element.text), _packed(element.tail)
        _rename(element, name)
        if "d" in element.attrib:
            element.set("d", _LONG.sub(lambda match: f"{float(match[0]):.2f}", element.attrib["d"]))
    for attribute in ("width", "height"):  # the page decides; the viewBox keeps the shape
        root.attrib.pop(attribute)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = printable(text)
        root.insert(index, element)
    return ET.tostring(root, encoding="unicode")


def _packed(text: str | None) -> str | None:
    """The text without the blanks that indent the file, which would be a fifth of a page."""
    return text if text and text.strip() else None


def _rename(element: ET.Element, name: str) -> None:
    """Puts `name` before the element's id and before the ids that it refers to."""
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
