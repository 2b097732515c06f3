"""Habits of the repository that a machine can check."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_file_is_long() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert not {str(p): n for p, n in lengths.items() if n > (360 if p.parts[0] == "tests" else 300)}


def test_tests_mirror_the_package() -> None:
    packages = {p.parent.name for p in (ROOT / "moeprobe").glob("*/__init__.py")}
    tested = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir()}
    assert packages <= tested, packages - tested


def test_five_small_checkpoints() -> None:
    for folder in (ROOT / "tests/checkpoints").iterdir():
        assert sum(f.stat().st_size for f in folder.iterdir()) <= 1_500_000, folder.name
