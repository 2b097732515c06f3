"""``moeprobe check MODEL``: the same analysis, judged: an exit code, and any report format."""

from typing import TYPE_CHECKING, Any

import click

from moeprobe.cli.options import analysis_options, loading_options, output_options, streaming_options

if TYPE_CHECKING:
    from moeprobe.recipe import FailOn

_SETTINGS = ("recipe", "probe", "max_tokens", "select", "ignore", "limit", "baseline")


@click.command("check")
@click.argument("model")
@click.option("--fail-on", type=click.Choice(["error", "warning"]), help="Least severity that fails. [default: error]")
@output_options
@analysis_options
@loading_options
@streaming_options
def command(
    model: str, fail_on: "FailOn | None", output_format: tuple[str, ...], output: tuple[str, ...], **options: Any
) -> int:
    """Judge the routing of MODEL (a folder or a hub id), for a pipeline.

    Exits 0 when nothing at or above --fail-on was found, 1 when something was (with --baseline: something new), and
    2 when the answer is not known: bad input, nothing that could be checked, or a crash.
    """
    from moeprobe.cli.outputs import parse_outputs

    outputs = parse_outputs(output_format, output)
    from moeprobe.cli.measure import measure, settle

    settings = settle(**{name: options.pop(name) for name in _SETTINGS}, fail_on=fail_on)
    result = measure(model, settings, **options)

    from moeprobe.findings.result import write_text
    from moeprobe.findings.verdict import decide
    from moeprobe.reporting.formats import render

    verdict = decide(result)
    for name, path in outputs.files:
        write_text(path, render(result, name, verdict))
    for name in outputs.printed:
        click.echo(render(result, name, verdict).rstrip("\n"))
    return verdict.exit_code
