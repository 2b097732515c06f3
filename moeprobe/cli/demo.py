"""``moeprobe demo``: the bundled tiny checkpoint, healthy or with one planted fault, analysed like any other."""

import tempfile
from pathlib import Path

import click

from moeprobe.demo.catalogue import FAULTS


@click.command("demo")
@click.option("--fault", type=click.Choice(list(FAULTS)), help="Plant this fault in a temporary copy first.")
@click.option("-o", "--output", type=click.Path(), help="Folder of the report. [default: reports/demo[-FAULT]]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
def command(fault: str | None, output: str | None, quiet: bool) -> None:
    """Analyse the bundled checkpoint, a tiny DeepSeek-V4 that was really trained.

    With --fault, a copy is damaged in one known place first: the report should name it.
    """
    from moeprobe.cli.analyze import run_analysis
    from moeprobe.demo.catalogue import checkpoint_folder
    from moeprobe.settings import CommandLine, resolve

    folder = Path(output) if output else Path("reports") / ("demo" if fault is None else f"demo-{fault}")
    settings = resolve(CommandLine(), None)  # no policy file: the demo shows the same everywhere
    if fault is None:
        run_analysis(str(checkpoint_folder()), folder, settings, quiet=quiet, shown_as="the bundled checkpoint")
        return
    from moeprobe.demo.faults import plant

    with tempfile.TemporaryDirectory(prefix="moeprobe-") as temporary:
        target = Path(temporary) / f"tiny-deepseek-v4-{fault}"
        click.echo(f"Planted: {plant(fault, checkpoint_folder(), target)}")
        told = f"the bundled checkpoint with a planted fault: {fault}"
        run_analysis(str(target), folder, settings, quiet=quiet, shown_as=told)
