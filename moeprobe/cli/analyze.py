"""``moeprobe analyze MODEL``: measure a checkpoint's routing and write a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeprobe.cli.options import analysis_options, loading_options, streaming_options

if TYPE_CHECKING:
    from moeprobe.settings import Settings

_SETTINGS = ("recipe", "probe", "max_tokens", "select", "ignore", "limit", "baseline")


@click.command("analyze")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(), help="Folder of the report. [default: reports/<model name>]")
@click.option("--save-records", is_flag=True, help="Also keep the raw triples (safetensors).")
@analysis_options
@loading_options
@streaming_options
def command(model: str, output: str | None, **options: Any) -> None:
    """Measure the routing of MODEL (a folder or a hub id) and write a report.

    Writes report.md, figures/ and result.json. Exits 0 when the analysis was completed, whatever it found,
    and 2 when it could not be done.
    """
    from moeprobe.cli.measure import settle

    folder = Path(output) if output else Path("reports") / (Path(model.rstrip("/")).name or "model")
    settings = settle(**{name: options.pop(name) for name in _SETTINGS})
    run_analysis(model, folder, settings, **options)


def run_analysis(
    model: str,
    folder: Path,
    settings: "Settings",
    *,
    save_records: bool = False,
    shown_as: str | None = None,
    **options: Any,
) -> None:
    """Analyse, write and summarise; shared with the demo.

    ``shown_as`` replaces the source in the report, where the folder that was read is a temporary one.
    """
    from moeprobe.cli.measure import measure
    from moeprobe.reporting.write import check_writable

    # A mistake in the output folder must not cost an hour of probing.
    check_writable(folder)
    from moeprobe.reporting.terminal import summary
    from moeprobe.reporting.write import write_report

    result = measure(model, settings, save_records=folder / "records" if save_records else None, **options)
    if shown_as is not None:
        result = result.model_copy(update={"model": result.model.model_copy(update={"source": shown_as})})
    report = write_report(result, folder)
    click.echo(summary(result))
    click.echo(f"Report: {report}")
