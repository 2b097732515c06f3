"""Make the sample reports in reports/gallery again.

    python scripts/gallery.py             # measure again, then write every format
    python scripts/gallery.py --formats   # only write every format from the stored result.json

A test writes each format from the stored result.json and compares, so a change of a report shows up here.
"""

import subprocess
import sys
from pathlib import Path

from moeprobe.findings.result import Result, write_text
from moeprobe.reporting.formats import render
from moeprobe.reporting.github import step_summary
from moeprobe.reporting.write import write_report

ROOT = Path(__file__).parent.parent
GALLERY = ROOT / "reports/gallery"
SAMPLES: dict[str, list[str]] = {"healthy": [], "scale-mismatch": ["--fault", "scale-mismatch"]}
FILES = {
    "text": "report.txt",
    "html": "report.html",
    "junit": "junit.xml",
    "sarif": "report.sarif",
    "github": "github.txt",
}
"""The formats beside result.json, report.md and its figures."""


def views(result: Result) -> dict[str, str]:
    """Every further format of a result by the name of its file."""
    made = {file: render(result, name) for name, file in FILES.items()}
    return made | {"github-summary.md": step_summary(result)}


def main() -> None:
    for name, options in SAMPLES.items():
        folder = GALLERY / name
        if "--formats" not in sys.argv[1:]:
            command = [sys.executable, "-m", "moeprobe", "demo", *options, "-o", f"reports/gallery/{name}"]
            subprocess.run(command, cwd=ROOT, check=True)
        result = Result.load(folder / "result.json")
        write_report(result, folder)
        for file, text in views(result).items():
            write_text(folder / file, text)


if __name__ == "__main__":
    main()
