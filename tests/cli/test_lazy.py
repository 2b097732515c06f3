"""Help and documentation cost no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
sys.argv = ["moeprobe", *{arguments!r}]
from moeprobe.cli import run
try:
    run()
except SystemExit as left:
    assert not left.code, left.code
heavy = {{"torch", "transformers", "matplotlib", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["--version"], ["analyze", "--help"], ["demo", "--help"], ["routers", "--help"],
        ["report", "--help"], ["explain"],
        ["explain", "flat-scores"], ["explain", "MP301"], ["recipe", "list"], ["recipe", "show", "full"],
        ["check", "--help"], ["recipe", "schema"], ["recipe", "validate", "ci"],
        ["diff", "--help"], ["gates", "--help"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_torch(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_check_imports_nothing_that_it_does_not_use(bundled: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from moeprobe.cli.group import main\n"
        "main.main(sys.argv[1:], standalone_mode=False)\n"
        "unused = {'pandas', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not unused, unused"
    )
    command = [sys.executable, "-c", program, "check", str(bundled), "--recipe=quick", "--max-tokens=1200"]
    command += [f"--output={name}={tmp_path / name}" for name in ("json", "junit", "sarif", "github")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_costs_no_torch() -> None:
    program = "import moeprobe, sys; moeprobe.Finding; moeprobe.Result; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names() -> None:
    import moeprobe

    assert moeprobe.__all__ == sorted(moeprobe.__all__)
    for name in moeprobe.__all__:
        assert getattr(moeprobe, name).__module__.startswith("moeprobe.")
