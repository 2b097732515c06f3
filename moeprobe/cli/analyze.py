"""``moeprobe analyze MODEL``: measure a checkpoint's routing and write a report."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from moeprobe.cli.options import analysis_options, loading_options, parse_limits, split


@click.command("analyze")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(), help="Folder of the report. [default: reports/<model name>]")
@click.option("--save-records", is_flag=True, help="Also keep the raw triples (safetensors).")
@analysis_options
@loading_options
def command(model: str, output: str | None, **options: Any) -> None:
    """Measure the routing of MODEL (a folder or a hub id) and write a report.

    Writes report.md, figures/ and result.json. Exits 0 when the analysis was completed, whatever it found,
    and 2 when it could not be done.
    """
    folder = Path(output) if output else Path("reports") / (Path(model.rstrip("/")).name or "model")
    run_analysis(model, folder, **options)


def run_analysis(
    model: str,
    folder: Path,
    *,
    select: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    limit: tuple[str, ...] = (),
    save_records: bool = False,
    quiet: bool = False,
    shown_as: str | None = None,
    **options: Any,
) -> None:
    """Analyse, write and summarise; shared with the demo.

    ``shown_as`` replaces the source in the report, where the folder that was read is a temporary one.
    """
    from moeprobe.reporting.write import check_writable

    # A mistake in the output folder must not cost an hour of probing.
    check_writable(folder)
    from moeprobe.pipeline import analyze
    from moeprobe.reporting.terminal import summary
    from moeprobe.reporting.write import write_report

    result = analyze(
        model,
        select=split(select),
        ignore=split(ignore),
        limits=parse_limits(limit),
        save_records=folder / "records" if save_records else None,
        progress=not quiet and sys.stderr.isatty(),
        command=shlex.join(["moeprobe", *sys.argv[1:]]),
        **options,
    )
    if shown_as is not None:
        result = result.model_copy(update={"model": result.model.model_copy(update={"source": shown_as})})
    report = write_report(result, folder)
    click.echo(summary(result))
    click.echo(f"Report: {report}")
