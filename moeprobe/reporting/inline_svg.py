"""A figure inside an HTML page: no reference leaves it, and its ids are its own.

matplotlib writes a document for itself. Inside a page, its XML head and metadata are out of place, the ids of two
figures would be the same, and a page should fit it to its width.
"""

import re
from xml.etree import ElementTree

from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.text import bare

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_DRAWN = {"svg", "g", "path", "defs", "use", "clipPath", "rect", "image", "circle", "line", "polyline", "polygon"}
_DIGITS = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


def inline_svg(picture: Picture) -> str:
    """Draw the picture as an ``<svg>`` element with its description, safe to stand in an HTML page.

    Only drawing elements are kept (no text, no style sheets, no scripts), only references to the figure itself and
    to data that it carries, and every id begins with the figure's name. Coordinates are rounded to hundredths of
    a point.
    """
    root = ElementTree.fromstring(picture.draw())  # drops comments
    _keep_what_draws(root)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        element.attrib = dict(_attributes(element, picture.name))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"xmlns": _SVG, "role": "img", "aria-label": bare(picture.alt)}
    return ElementTree.tostring(root, encoding="unicode")


def _keep_what_draws(parent: ElementTree.Element) -> None:
    for child in list(parent):
        if child.tag.removeprefix(f"{{{_SVG}}}") not in _DRAWN:
            parent.remove(child)
        else:
            _keep_what_draws(child)
    parent.text = parent.tail = None


def _attributes(element: ElementTree.Element, own: str) -> list[tuple[str, str]]:
    kept = []
    for key, value in element.attrib.items():
        name = key.removeprefix(f"{{{_XLINK}}}")
        if name == "id":
            kept.append((name, f"{own}-{value}"))
        elif name == "href":
            if value.startswith("#"):
                kept.append((name, f"#{own}-{value[1:]}"))
            elif value.startswith("data:image/png;base64,"):
                kept.append((name, value))
        elif name in ("d", "x", "y", "points"):
            kept.append((name, " ".join(_DIGITS.sub(_rounded, value).split())))
        elif not name.startswith(("on", "{")):
            kept.append((name, _REFERENCE.sub(rf"url(#{own}-\1)", value)))
    return kept


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match.group()):.2f}".rstrip("0").rstrip(".")
