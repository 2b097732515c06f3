"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from moeprobe.errors import OptionError
from moeprobe.parallel.launch import KINDS
from moeprobe.recipe import MOST_TOKENS
from moeprobe.reporting.formats import FORMAT_NAMES

_Command = Callable[..., Any]


def loading_options(command: _Command) -> _Command:
    """How the checkpoint is found and loaded, as in transformers."""
    for option in reversed(
        [
            click.option("--revision", help="Branch, tag or commit of a hub checkpoint."),
            click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."),
            click.option("--device-map", help="As in transformers: auto, cpu, cuda:0 ..."),
            click.option(
                "--trust-remote-code",
                is_flag=True,
                help="DANGEROUS: run Python code that comes with the checkpoint.",
            ),
            click.option("--quiet", "-q", is_flag=True, help="No progress bars."),
        ]
    ):
        command = option(command)
    return command


def parallel_option(command: _Command) -> _Command:
    """What several processes share, where a launcher has started them."""
    return click.option(
        "--parallel",
        type=click.Choice(KINDS),
        default="data",
        show_default=True,
        help="What the processes of torchrun or accelerate share: the texts, or the weights.",
    )(command)


def weights_only_option(command: _Command) -> _Command:
    """Whether anything is loaded and run."""
    return click.option(
        "--weights-only",
        is_flag=True,
        help="Read only the routers' tensors (of a hub model: by ranges); load and run nothing.",
    )(command)


def analysis_options(command: _Command) -> _Command:
    """What is run: recipe, texts, detectors, limits."""
    for option in reversed(
        [
            click.option("--recipe", help="Name of a recipe, or a YAML file. [default: full, or the policy's]"),
            click.option("--probe", help="Your own texts: a text file, a folder, JSONL, or hub:org/name."),
            click.option("--tokenizer", help="Folder or hub id, where the checkpoint has no tokenizer."),
            click.option("--max-tokens", type=click.IntRange(1, MOST_TOKENS), help="Tokens of text to read."),
            click.option("--select", multiple=True, metavar="D,..", help="Only these detectors (name, code, prefix)."),
            click.option("--ignore", multiple=True, metavar="D,..", help="All but these detectors."),
            click.option("--limit", multiple=True, metavar="D.NAME=X", help="Move a limit of a detector."),
        ]
    ):
        command = option(command)
    return command


def gate_options(command: _Command) -> _Command:
    """From which severity on the command exits with 1."""
    return click.option(
        "--fail-on", type=click.Choice(["error", "warning"]), help="Least severity that fails. [default: error]"
    )(command)


def baseline_option(command: _Command) -> _Command:
    """An earlier result of the same measurement."""
    return click.option("--baseline", type=click.Path(), help="result.json that findings are held against.")(command)


def streaming_options(command: _Command) -> _Command:
    """How a model that is larger than the memory is read."""
    for option in reversed(
        [
            click.option(
                "--stream/--no-stream",
                default=None,
                help="Read the layers from the disk one at a time; interrupted, it begins again. "
                "[default: where the weights exceed the memory]",
            ),
            click.option("--memory", metavar="SIZE", help="Memory that may be used, such as 8GB. [default: all free]"),
        ]
    ):
        command = option(command)
    return command


def output_options(command: _Command) -> _Command:
    """In which formats the result is given, and where to."""
    for option in reversed(
        [
            click.option(
                "--output-format",
                multiple=True,
                type=click.Choice(FORMAT_NAMES),
                help="Print this format; may be repeated. [default: text]",
            ),
            click.option("--output", multiple=True, metavar="FORMAT=FILE", help="Write a file as well: junit=out.xml."),
        ]
    ):
        command = option(command)
    return command


def split(values: tuple[str, ...]) -> list[str]:
    """``("a,b", "c")`` as ``["a", "b", "c"]``."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def parse_limits(values: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """``flat-scores.std_error=0.02`` as nested dictionaries.

    Raises:
        OptionError: it is not of that form.

    """
    limits: dict[str, dict[str, float]] = {}
    for value in values:
        key, equals, number = value.partition("=")
        detector, dot, name = key.strip().rpartition(".")
        try:
            if not (equals and dot and detector and name):
                raise ValueError(value)
            limits.setdefault(detector, {})[name] = float(number)
        except ValueError as error:
            raise OptionError(f"--limit {value!r} must look like flat-scores.std_error=0.02.") from error
    return limits
