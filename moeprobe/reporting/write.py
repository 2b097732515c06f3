"""Writing a report: the numbers first, then what is made from them."""

import os
from contextlib import suppress
from pathlib import Path

from moeprobe.errors import OutputError
from moeprobe.findings.result import Result, write_text
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.markdown import write
from moeprobe.reporting.report import report


def check_writable(folder: Path, *names: str) -> None:
    """Try the folder of a report before hours of work, and leave no trace of the trial; ``names`` will be files in it.

    Raises:
        OutputError: the folder cannot be made, or nothing can be written into it.

    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        taken = [folder / name for name in names if (folder / name).is_dir()]
        taken += [path for path in [folder / "figures"] if names and os.path.lexists(path) and not path.is_dir()]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no file can have such a name"
        raise OutputError(f"Cannot write into {folder}: {why}. Choose another folder.") from error
    if taken:
        kind = "a folder, not a file" if taken[0].is_dir() else "no folder"
        raise OutputError(f"Cannot write {taken[0]}: it is {kind}. Choose another folder, or move it away.")
    try:
        write_text(folder / ".moeprobe", "").unlink(missing_ok=True)
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


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
    return write_text(folder / "report.md", write(report(result)))
