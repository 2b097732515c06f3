"""Where ``check`` and ``diff`` write: formats on standard output, and formats to files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moeprobe.errors import OptionError, OutputError
from moeprobe.recipe import suggestion
from moeprobe.regular_file import LONGEST_NAME
from moeprobe.reporting.formats import FORMAT_NAMES
from moeprobe.reporting.write import check_writable

if TYPE_CHECKING:
    from moeprobe.findings.result import Result

_TOGETHER = {"text", "markdown", "github"}
"""Formats that may follow each other on standard output; the others must be a document of their own."""


@dataclass(frozen=True)
class Outputs:
    """Formats for standard output in their order, and (format, file) pairs."""

    printed: tuple[str, ...]
    files: tuple[tuple[str, Path], ...]


def parse_outputs(formats: Sequence[str], files: Sequence[str]) -> Outputs:
    """Read ``--output-format F`` and ``--output F=FILE``, and try the folders of the files.

    Raises:
        OptionError: an unknown format, no file, or two outputs for one place.
        OutputError: a file cannot be written.

    """
    printed = tuple(dict.fromkeys(formats)) or ("text",)
    documents = [name for name in printed if name not in _TOGETHER]
    if documents and len(printed) > 1:
        raise OptionError(
            f"{' and '.join(printed)} cannot share standard output; write one to a file with "
            f"--output {documents[0]}=FILE."
        )
    pairs = tuple(map(_pair, files))
    taken: dict[Path, str] = {}
    for name, path in pairs:
        place = Path(os.path.realpath(path))
        if place in taken:
            raise OptionError(f"{taken[place]} and {name} would both be written to {path}; give each its own file.")
        taken[place] = name
    for _, path in pairs:
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            raise OutputError(f"Cannot write {path}: its name is too long. Choose a shorter one.")
        if path.exists() and not path.is_file():
            raise OutputError(f"Cannot write {path}: it is not a regular file. Choose another name.")
        check_writable(path.parent)
    return Outputs(printed, pairs)


def deliver(result: "Result", outputs: Outputs) -> int:
    """Judge a result, write it to the files first, then print it, and give the exit code; one process writes.

    Raises:
        OutputError: a file cannot be written.

    """
    from moeprobe.findings.result import write_text
    from moeprobe.findings.verdict import decide
    from moeprobe.parallel.launch import leads
    from moeprobe.reporting.formats import render

    verdict = decide(result)
    if not leads():
        return verdict.exit_code
    for name, path in outputs.files:
        write_text(path, render(result, name, verdict))
    for name in outputs.printed:
        click.echo(render(result, name, verdict).rstrip("\n"))
    return verdict.exit_code


def _pair(value: str) -> tuple[str, Path]:
    name, equals, path = value.partition("=")
    if not equals or not path or path == "-":
        raise OptionError(
            f"--output {value!r} must look like junit=report.xml; for standard output use --output-format."
        )
    if name not in FORMAT_NAMES:
        raise OptionError(
            f"--output {value!r}: unknown format {name!r}{suggestion(name, list(FORMAT_NAMES))}; "
            f"known are {', '.join(FORMAT_NAMES)}."
        )
    return name, Path(os.path.expanduser(path))
