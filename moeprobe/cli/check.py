"""``moeprobe check MODEL``: the same analysis, judged: an exit code, and any report format."""

from typing import TYPE_CHECKING, Any

import click

from moeprobe.cli.options import (
    analysis_options,
    baseline_option,
    gate_options,
    loading_options,
    output_options,
    parallel_option,
    streaming_options,
    weights_only_option,
)

if TYPE_CHECKING:
    from moeprobe.recipe import FailOn

_SETTINGS = ("recipe", "probe", "max_tokens", "select", "ignore", "limit", "baseline")


@click.command("check")
@click.argument("model")
@gate_options
@output_options
@analysis_options
@baseline_option
@loading_options
@streaming_options
@weights_only_option
@parallel_option
def command(
    model: str, fail_on: "FailOn | None", output_format: tuple[str, ...], output: tuple[str, ...], **options: Any
) -> int:
    """Judge the routing of MODEL (a folder or a hub id), for a pipeline.

    Exits 0 when nothing at or above --fail-on was found, 1 when something was (with --baseline: something new), and
    2 when the answer is not known: bad input, nothing that could be checked, or a crash.
    """
    from moeprobe.cli.outputs import deliver, parse_outputs

    outputs = parse_outputs(output_format, output)
    from moeprobe.cli.measure import measure, settle
    from moeprobe.cli.protect import inputs, refuse_overwriting

    settings = settle(**{name: options.pop(name) for name in _SETTINGS}, fail_on=fail_on)
    refuse_overwriting(inputs([model], settings, options.get("tokenizer")), [path for _, path in outputs.files])
    return deliver(measure(model, settings, **options), outputs)
