"""``moeprobe analyze MODEL``: measure a checkpoint's routing and write a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeprobe.cli.options import (
    analysis_options,
    baseline_option,
    loading_options,
    parallel_option,
    streaming_options,
    weights_only_option,
)
from moeprobe.errors import EXIT_CLEAN, EXIT_NOT_CHECKED

if TYPE_CHECKING:
    from moeprobe.settings import Settings

_SETTINGS = ("recipe", "probe", "max_tokens", "select", "ignore", "limit", "baseline")


@click.command("analyze")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(), help="Folder of the report. [default: reports/<model name>]")
@click.option("--save-records", is_flag=True, help="Also keep the raw triples (safetensors).")
@analysis_options
@baseline_option
@loading_options
@streaming_options
@weights_only_option
@parallel_option
@click.option("--restart", is_flag=True, help="Throw away the progress of an interrupted analysis in the folder.")
def command(model: str, output: str | None, **options: Any) -> int:
    """Measure the routing of MODEL (a folder or a hub id) and write a report.

    Writes report.md, figures/ and result.json, the baseline of later checks (so the baseline of a policy file is not
    read here). Exits 0 when the analysis was completed, whatever it found, and 2 when it could not be done, or not
    whole: where the model's forward pass fails, the report has what the weights show. Interrupted, it goes on where
    it stood when the same command is given again.
    """
    from moeprobe.cli.measure import settle
    from moeprobe.cli.protect import inputs, refuse_overwriting, report_files

    folder = Path(output) if output else Path("reports") / (Path(model.rstrip("/")).name or "model")
    settings = settle(**{name: options.pop(name) for name in _SETTINGS}, without=("baseline",))
    read = inputs([model], settings, options.get("tokenizer"))
    refuse_overwriting(read, *report_files(folder, "result.json", "report.md"))
    return run_analysis(model, folder, settings, keep_progress=folder / ".progress", **options)


def run_analysis(
    model: str,
    folder: Path,
    settings: "Settings",
    *,
    save_records: bool = False,
    keep_progress: Path | None = None,
    shown_as: str | None = None,
    **options: Any,
) -> int:
    """Analyse, write and summarise; shared with the demo. Gives the exit code.

    ``keep_progress`` is the folder from which an interrupted analysis goes on, removed when the report is there.
    ``shown_as`` replaces the source in the report, where the folder that was read is a temporary one.
    """
    from moeprobe.cli.measure import measure
    from moeprobe.reporting.write import check_writable

    # A mistake in the output folder must not cost an hour of probing.
    check_writable(folder, "result.json", "report.md")
    from moeprobe.parallel.launch import leads
    from moeprobe.reporting.formats import render
    from moeprobe.reporting.text import loggable
    from moeprobe.reporting.write import write_report
    from moeprobe.resume.bookmark import forget

    records = folder / "records" if save_records else None
    result = measure(model, settings, save_records=records, keep_progress=keep_progress, **options)
    code = EXIT_CLEAN if result.forward_failure is None else EXIT_NOT_CHECKED
    if not leads():
        return code
    if shown_as is not None:
        result = result.model_copy(update={"model": result.model.model_copy(update={"source": shown_as})})
    report = write_report(result, folder)
    if keep_progress is not None:
        forget(keep_progress)
    click.echo(render(result, "text").rstrip("\n"))
    click.echo(loggable(f"Report: {report}"))
    return code
