"""``moeprobe diff BASE TUNED``: how the routing of a checkpoint differs from that of the model it was made from."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from moeprobe.cli.options import analysis_options, loading_options, parse_limits, split
from moeprobe.errors import EXIT_CLEAN, EXIT_FINDINGS, EXIT_NOT_CHECKED


@click.command("diff")
@click.argument("base")
@click.argument("tuned")
@click.option("-o", "--output", type=click.Path(), help="Folder of the report. [default: reports/<TUNED>-vs-<BASE>]")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info", "never"]),
    default="error",
    show_default=True,
    help="Exit with 1 from this severity on.",
)
@click.option("--base-revision", help="Branch, tag or commit of BASE on the hub.")
@click.option("--base-dtype", help="Dtype of BASE, if not that of --dtype.")
@click.option(
    "--allow-different-tokenizers", is_flag=True, help="Let both models read the tokens of the base's tokenizer."
)
@analysis_options
@loading_options
def command(base: str, tuned: str, output: str | None, fail_on: str, **options: Any) -> int:
    """Compare the routing of TUNED with that of BASE, on the same tokens, and write a report.

    Each is a folder, a hub id, or a saved result with records (`moeprobe analyze --save-records`). Only
    routing-drift judges, unless --select names others. Exits 0 when nothing at or above --fail-on was found, 1 when
    something was, and 2 when the two could not be compared.
    """
    folder = Path(output) if output else Path("reports") / f"{_name(tuned)}-vs-{_name(base)}"
    from moeprobe.reporting.write import check_writable

    check_writable(folder)
    from moeprobe.comparison import diff
    from moeprobe.findings.finding import SEVERITIES
    from moeprobe.reporting.drift import nearest
    from moeprobe.reporting.terminal import summary
    from moeprobe.reporting.write import write_report

    quiet = options.pop("quiet")
    selected, ignored = split(options.pop("select")), split(options.pop("ignore"))
    result = diff(
        base,
        tuned,
        select=selected,
        ignore=ignored,
        limits=parse_limits(options.pop("limit")),
        progress=not quiet and sys.stderr.isatty(),
        command=shlex.join(["moeprobe", *sys.argv[1:]]),
        **options,
    )
    report = write_report(result, folder)
    click.echo(summary(result))
    click.echo(f"\n{nearest(result)}")
    click.echo(f"Report: {report}")
    if not result.count("clean") and not result.count("finding"):
        return EXIT_NOT_CHECKED
    bars = SEVERITIES[: SEVERITIES.index(fail_on) + 1] if fail_on != "never" else ()
    return EXIT_FINDINGS if any(finding.severity in bars for finding in result.findings) else EXIT_CLEAN


def _name(source: str) -> str:
    """A short name for a folder, a hub id or a result file."""
    path = Path(source.rstrip("/"))
    return (path.parent.name if path.suffix == ".json" else path.name) or "model"
