"""``moeprobe report RESULT``: a saved result in another format."""

import os
from pathlib import Path

import click

from moeprobe.errors import OptionError
from moeprobe.reporting.formats import FORMAT_NAMES

_ENDINGS = {
    ".txt": "text", ".json": "json", ".md": "markdown", ".html": "html", ".htm": "html", ".xml": "junit",
    ".sarif": "sarif",
}  # fmt: skip


@click.command("report")
@click.argument("result")
@click.option(
    "--format",
    "name",
    type=click.Choice(FORMAT_NAMES),
    help="What to write. [default: by the ending of the file, else text]",
)
@click.option("-o", "--output", type=click.Path(), help="File to write. [default: standard output]")
def command(result: str, name: str | None, output: str | None) -> None:
    """Write a saved RESULT (result.json, or the folder of an analysis) in another format.

    Nothing is measured or judged again, and no model is read.
    """
    from moeprobe.cli.protect import Inputs, refuse_overwriting
    from moeprobe.findings.result import Result, write_text
    from moeprobe.reporting.formats import render

    source = Path(os.path.expanduser(result))
    source = source / "result.json" if source.is_dir() else source
    target = Path(os.path.expanduser(output)) if output else None
    if target is not None and target.exists():
        if target.is_dir():
            raise OptionError(f"{target} is a folder; give the name of a file with -o.")
        if source.exists() and target.samefile(source):
            raise OptionError(f"{target} is the result itself; give another file with -o.")
    if target is not None:
        refuse_overwriting(Inputs(), [target])
    name = name or _ENDINGS.get(target.suffix.lower() if target else "", "text")
    written = render(Result.load(source), name)
    if target is None:
        click.echo(written.encode(), nl=False)
    else:
        write_text(target, written)
