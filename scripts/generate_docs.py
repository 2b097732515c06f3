"""Write the pages that are generated from the code: one page a detector, and their index.

    python scripts/generate_docs.py            # write
    python scripts/generate_docs.py --check    # exit 1 if a page is not up to date

A detector's page is its docstring; what `moeprobe explain` prints and what stands here cannot differ.
"""

import sys
from pathlib import Path

from moeprobe.detectors.registry import DETECTORS, explain
from moeprobe.findings.result import write_text

ROOT = Path(__file__).parent.parent


def pages() -> dict[Path, str]:
    """Path of every generated page and its text."""
    made = {}
    rows = []
    for detector in DETECTORS:
        title, _, body = explain(detector.name).strip().partition("\n")
        code, name, summary = title.split(" ", 2)
        made[ROOT / f"docs/detectors/{detector.name}.md"] = f"# {name.rstrip(':')} ({code})\n\n{summary}\n{body}\n"
        rows.append(f"| {code} | [{detector.name}](../../docs/detectors/{detector.name}.md) | {summary} |")
    made[ROOT / "moeprobe/detectors/README.md"] = "\n".join(
        [
            "# Detectors",
            "",
            "Written by `python scripts/generate_docs.py` from the docstring of each detector's file.",
            "",
            "| code | name | finds |",
            "| --- | --- | --- |",
            *rows,
            "",
            "A detector is a pure function: `Evidence` and limits in, checks and findings out. `registry.py` lists all",
            "of them, `case.py` turns what a detector says into one check per router, `causes.py` makes one root cause",
            "one finding.",
            "",
        ]
    )
    return made


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'not up to date' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            write_text(path, pages()[path])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
