"""``moeprobe gates MODEL``: the gate laboratory."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from moeprobe.cli.options import loading_options
from moeprobe.errors import OptionError
from moeprobe.recipe import MOST_TOKENS

_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


@click.command("gates")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(), help="Folder of the report. [default: reports/<model name>]")
@click.option("--layers", metavar="N,N-M", default="", help="Only these decoder layers, such as 0,3-5.")
@click.option("--probe", default="builtin", help="Your own texts: a text file, a folder, JSONL, or hub:org/name.")
@click.option("--tokenizer", help="Folder or hub id, where the checkpoint has no tokenizer.")
@click.option("--max-tokens", type=click.IntRange(1, MOST_TOKENS), help="Tokens of text to read.")
@click.option("--rows", type=click.IntRange(200, 10**9), default=4096, show_default=True, help="Rows kept of a router.")
@click.option("--step", type=float, default=1e-3, show_default=True, help="Bias step of the balance rules.")
@click.option("--updates", type=click.IntRange(1, 10**6), default=1000, show_default=True, help="Steps of each rule.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Of the sample and batches. [default: 0]")
@loading_options
def command(
    model: str, output: str | None, layers: str, step: float, updates: int, quiet: bool, **options: Any
) -> None:
    """Try other score functions and balance rules on the logits of MODEL (a folder or a hub id).

    Softmax, sigmoid and sqrt(softplus) on the model's own recorded logits, and three rules that balance the load
    by a selection bias. Nothing is judged. Writes gates.md, gates.json and figures/. A layer of 256 experts takes
    up to a minute on one core: name some --layers, or fewer --updates.
    """
    wanted = parse_layers(layers)
    if not 0 < step < float("inf"):
        raise OptionError(f"--step {step:g} must be a positive number, such as 0.001.")
    folder = Path(output) if output else Path("reports") / (Path(model.rstrip("/")).name or "model")
    from moeprobe.cli.protect import Inputs, refuse_overwriting, report_files
    from moeprobe.reporting.write import check_writable

    read = Inputs(tuple(one for one in (model, options["tokenizer"]) if one), texts=options["probe"])
    refuse_overwriting(read, *report_files(folder, "gates.json", "gates.md"))
    check_writable(folder, "gates.json", "gates.md")
    from moeprobe.laboratory.controller import Plan
    from moeprobe.reporting.gates import summary, write_gate_report
    from moeprobe.reporting.text import loggable
    from moeprobe.study import study_gates

    report = study_gates(
        model,
        layers=wanted,
        plan=Plan(step=step, updates=updates),
        progress=not quiet and sys.stderr.isatty(),
        command=shlex.join(["moeprobe", *sys.argv[1:]]),
        **options,
    )
    written = write_gate_report(report, folder)
    click.echo(summary(report))
    click.echo(loggable(f"Report: {written}"))


def parse_layers(text: str) -> frozenset[int]:
    """``0,3-5`` as {0, 3, 4, 5}; nothing named is the empty set.

    Raises:
        OptionError: it is not of that form.

    """
    found: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _PART.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first > 10_000:
            raise OptionError(f"--layers {text!r} must look like 0,3-5.")
        found |= set(range(first, last + 1))
    return frozenset(found)
