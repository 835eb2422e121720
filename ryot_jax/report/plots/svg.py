"""A matplotlib figure as an SVG element for an HTML page."""

import io
import re
import xml.etree.ElementTree as ET

from matplotlib.figure import Figure

from ryot_jax.runtime.console import printable

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG = re.compile(r"-?\d+\.\d{3,}")  # coordinates of paths: two decimals are finer than any screen


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Renders the figure as one reproducible `<svg>` element.

    Its ids begin with `name`, as a page holds many figures; date, program and page-wide styles are removed.

    Args:
      figure: drawn under the settings of `style.STYLE` and a fixed `svg.hashsalt`.
      name: name of the figure within its page: letters, digits and underscores.
      title: title of the figure.
      description: description of the figure in words.
    """
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    root = ET.fromstring(buffer.getvalue())  # parsing drops comments, which hold the plot's texts
    for parent in root.iter():
        for child in list(parent):
            # The metadata hold date and program; the style would apply to the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.text, element.tail = _packed(element.text), _packed(element.tail)
        _rename(element, name)
        if "d" in element.attrib:
            element.set("d", _LONG.sub(lambda match: f"{float(match[0]):.2f}", element.attrib["d"]))
    for attribute in ("width", "height"):  # the page sets the size; the viewBox keeps the aspect ratio
        root.attrib.pop(attribute)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = printable(text)
        root.insert(index, element)
    return ET.tostring(root, encoding="unicode")


def _packed(text: str | None) -> str | None:
    """The text without the indentation of the file, which would be a fifth of a page."""
    return text if text and text.strip() else None


def _rename(element: ET.Element, name: str) -> None:
    """Prefixes the element's id, and the ids that it refers to, with `name`."""
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
