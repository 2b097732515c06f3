"""Run the commands of docs/ci.md again, in their order, and put what they print below each.

    python scripts/ci_page.py

Every line that begins with ``$ `` in a block marked ``console`` is a command; `python`, `moeprobe`, `cat` and `echo $?`
are known. They run in a copy of examples/finetune. A test replays the page in the same way and compares.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/ci.md"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)

Call = Callable[[list[str]], tuple[int, str]]
"""Runs a program in the current folder: its name and arguments in; exit code, and all that it printed, out."""


@dataclass(frozen=True)
class Step:
    """One command of the page, what stands below it there, and what it came to now."""

    command: str
    told: str
    code: int
    output: str


def workspace(folder: Path) -> Path:
    """A copy of the example in ``folder``, where the bundled checkpoint is as many steps away as in a clone."""
    (folder / "moeprobe").symlink_to(ROOT / "moeprobe", target_is_directory=True)
    return Path(shutil.copytree(ROOT / "examples/finetune", folder / "examples/finetune"))


def replay(block: str, call: Call, code: int = 0) -> Iterator[Step]:
    """Run the commands of one block in the current folder."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, told = part.partition("\n")
        if command == "echo $?":
            output = f"{code}\n"
        elif command.startswith("cat "):
            output = Path(command.removeprefix("cat ")).read_text(encoding="utf-8")
        else:
            code, output = call(command.split())
        yield Step(command, told, code, output)


def run(arguments: list[str]) -> tuple[int, str]:
    """Run ``python`` and ``moeprobe`` as this interpreter has them."""
    program = {"python": [sys.executable], "moeprobe": [sys.executable, "-m", "moeprobe"]}[arguments[0]]
    done = subprocess.run(
        [*program, *arguments[1:]],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def main() -> None:
    def again(match: re.Match[str]) -> str:
        return "".join(f"$ {step.command}\n{step.output}" for step in replay(match.group(), run))

    with tempfile.TemporaryDirectory(prefix="moeprobe-") as folder:
        os.chdir(workspace(Path(folder)))
        text = BLOCK.sub(again, PAGE.read_text(encoding="utf-8"))
        os.chdir(ROOT)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
