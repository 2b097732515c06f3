"""Writing a report: the numbers first, then what is made from them."""

from pathlib import Path

from moeprobe.findings.result import Result, write_text
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.markdown import render


def check_writable(folder: Path) -> None:
    """Make the folder of a report and try it before hours of work; OutputError where that fails."""
    write_text(folder / ".moeprobe", "").unlink(missing_ok=True)


def write_report(result: Result, folder: Path) -> Path:
    """Write ``result.json``, then ``figures/*.svg``, then ``report.md``; give the path of the last.

    Every file is written whole or not at all, and the numbers are safe before anything is drawn from them.
    Pictures of findings that an earlier run left in the folder are removed.

    Raises:
        OutputError: a file cannot be written.

    """
    result.save(folder / "result.json")
    drawn = pictures(result)
    for picture in drawn.values():
        write_text(folder / "figures" / f"{picture.name}.svg", picture.draw())
    for old in (folder / "figures").glob("finding-*.svg"):
        if old.stem not in drawn:
            old.unlink(missing_ok=True)
    return write_text(folder / "report.md", render(result))
