"""Help and documentation cost no torch."""

import subprocess
import sys

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


def test_import_costs_no_torch() -> None:
    program = "import moeprobe, sys; moeprobe.Finding; moeprobe.Result; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names() -> None:
    import moeprobe

    assert moeprobe.__all__ == sorted(moeprobe.__all__)
    for name in moeprobe.__all__:
        assert getattr(moeprobe, name).__module__.startswith("moeprobe.")
