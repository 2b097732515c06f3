"""``moeprobe diff BASE TUNED``: how the routing of a checkpoint differs from that of the model it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeprobe.cli.options import analysis_options, gate_options, loading_options, output_options

if TYPE_CHECKING:
    from moeprobe.recipe import FailOn

_SETTINGS = ("recipe", "select", "ignore", "limit")
_POLICY: dict[str, Any] = {"default": "compare", "without": ("recipe", "select", "baseline")}
"""Recipe, select and baseline of a policy are made for a single model."""


@click.command("diff")
@click.argument("base")
@click.argument("tuned")
@click.option(
    "-o",
    "--folder",
    type=click.Path(),
    help="Folder of the report. [default: reports/<TUNED>-vs-<BASE>, none beside --output and --output-format]",
)
@gate_options
@output_options
@click.option("--base-revision", help="Branch, tag or commit of BASE on the hub.")
@click.option("--base-dtype", help="Dtype of BASE, if not that of --dtype.")
@click.option(
    "--allow-different-tokenizers", is_flag=True, help="Let both models read the tokens of the base's tokenizer."
)
@analysis_options
@loading_options
def command(
    base: str,
    tuned: str,
    folder: str | None,
    fail_on: "FailOn | None",
    output_format: tuple[str, ...],
    output: tuple[str, ...],
    **options: Any,
) -> int:
    """Compare the routing of TUNED with that of BASE, on the same tokens, and write a report.

    Each is a folder, a hub id, or a saved result with records (`moeprobe analyze --save-records`). The recipe is
    compare, and only routing-drift judges, unless --select names others. Exits 0 when nothing at or above --fail-on
    was found, 1 when something was, and 2 when the two could not be compared.
    """
    from moeprobe.cli.outputs import deliver, parse_outputs
    from moeprobe.reporting.write import check_writable

    outputs = parse_outputs(output_format, output)
    target = Path(folder) if folder else None if output or output_format else _default_folder(base, tuned)
    if target is not None:
        check_writable(target, "result.json", "report.md")
    from moeprobe.cli.measure import compare, settle
    from moeprobe.cli.protect import inputs, refuse_overwriting, report_files
    from moeprobe.reporting.text import loggable
    from moeprobe.reporting.write import write_report

    texts, max_tokens = options.pop("probe"), options.pop("max_tokens")
    given = {name: options.pop(name) for name in _SETTINGS}
    settings = settle(**given, probe=texts, max_tokens=max_tokens, fail_on=fail_on, **_POLICY)
    files, folders = report_files(target, "result.json", "report.md") if target is not None else ([], [])
    read = inputs([base, tuned], settings, options.get("tokenizer"))
    refuse_overwriting(read, [*files, *(path for _, path in outputs.files)], folders)
    result = compare(base, tuned, settings, texts=texts, max_tokens=max_tokens, **options)
    report = write_report(result, target) if target is not None else None
    code = deliver(result, outputs)
    if report is not None:
        click.echo(loggable(f"Report: {report}"), err=bool(output_format))
    return code


def _default_folder(base: str, tuned: str) -> Path:
    return Path("reports") / f"{_name(tuned)}-vs-{_name(base)}"


def _name(source: str) -> str:
    """A short name for a folder, a hub id or a result file."""
    path = Path(source.rstrip("/"))
    return (path.parent.name if path.suffix == ".json" else path.name) or "model"
