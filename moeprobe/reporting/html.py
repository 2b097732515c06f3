"""The report as one HTML page that needs nothing else: no script, no file, no font, no network.

The page is the same blocks as the Markdown, with the figures drawn into it. Jinja escapes every text by itself;
only the figures are put in as markup, after ``inline_svg`` has stripped them to drawing elements. A content
security policy forbids scripts and everything from outside, should a name get through all the same.
"""

from functools import cache, partial
from typing import TYPE_CHECKING

from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.document import Block, Document, Figure, Heading, Paragraph, with_figures
from moeprobe.reporting.inline_svg import inline_svg
from moeprobe.reporting.report import report
from moeprobe.reporting.text import bare, lines, pieces
from moeprobe.reporting.verdict import subject, verdict

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


MOST_BYTES = 1_000_000
"""Size of a page. Some 60 layers of 384 experts take 700 kB."""


def render(result: Result, judged: Verdict | None = None) -> str:
    """Write the whole report as a page of at most ``MOST_BYTES``.

    Where the figures do not all fit, those of the findings are left out first, then all; the page says so, and the
    tables beside them stay.
    """
    document = report(result, judged)
    page = ""
    for leave_out in ("nothing", "finding-", ""):
        page = _page(result, judged, with_figures(document, partial(_drawn_or_told, leave_out)))
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _drawn_or_told(leave_out: str, figure: Figure) -> Document:
    if not figure.picture.name.startswith(leave_out):
        return (figure,)
    return (Paragraph("The figure was left out to keep this page below 1 MB; its numbers are in the tables."),)


def _page(result: Result, judged: Verdict | None, document: Document) -> str:
    title, *rest = document
    top = next((place for place, block in enumerate(rest) if isinstance(block, Heading)), len(rest))
    template = _environment().get_template("report.html")
    return template.render(
        name=subject(result)[0],
        title=title,
        state=_state(result, judged),
        verdict=verdict(result),
        head=rest[:top],
        sections=_sections(tuple(rest[top:])),
    )


def _sections(blocks: Document) -> list[tuple[str, Heading, list[Block]]]:
    """Split at the headings of level 2: an id, the heading, and what stands below it."""
    sections: list[tuple[str, Heading, list[Block]]] = []
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            sections.append((f"part-{len(sections) + 1}", block, []))
        else:
            sections[-1][2].append(block)
    return sections


def _state(result: Result, judged: Verdict | None) -> str:
    """The colour of the verdict: that of the worst finding, or of the check."""
    if judged is not None and judged.failing:
        return "error"
    if not any(result.count(verdict) for verdict in ("clean", "finding")):
        return "unknown"
    return result.worst if result.worst in ("error", "warning") else "clean"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("moeprobe.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(pieces=pieces, bare=bare, lines=lines, drawn=_drawn)
    return environment


def _drawn(figure: Figure) -> "Markup":
    from markupsafe import Markup

    return Markup(inline_svg(figure.picture))
