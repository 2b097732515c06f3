"""Make the sample reports in reports/gallery again.

    python scripts/gallery.py

A test renders each report from its result.json and compares, so a change of the report shows up here.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES: dict[str, list[str]] = {"healthy": [], "scale-mismatch": ["--fault", "scale-mismatch"]}


def main() -> None:
    for name, options in SAMPLES.items():
        command = [sys.executable, "-m", "moeprobe", "demo", *options, "-o", f"reports/gallery/{name}"]
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
