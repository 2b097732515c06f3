"""Run the experiment and write its page.

    python -m benchmarks.efficiency --jobs 2                  # docs/sample-efficiency.md, some ten minutes
    python -m benchmarks.efficiency --small --out page.md

The numbers are kept beside the page (.json); ``--page-only`` writes page and figure from them again.
"""

import argparse
import time
from pathlib import Path

from benchmarks.efficiency.page import Run, write
from benchmarks.efficiency.study import FULL, SMALL, run

ROOT = Path(__file__).parent.parent.parent


def main() -> None:
    """Run, save, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.efficiency", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/sample-efficiency.md")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--page-only", action="store_true")
    chosen = parser.parse_args()
    numbers = chosen.out.with_suffix(".json")
    if chosen.page_only:
        done = Run.load(numbers)
    else:
        setting, began = SMALL if chosen.small else FULL, time.time()
        series = run(setting, chosen.jobs)
        done = Run(setting=setting, jobs=chosen.jobs, seconds=time.time() - began, series=series)
        done.save(numbers)
    write(done, chosen.out)


if __name__ == "__main__":
    main()
