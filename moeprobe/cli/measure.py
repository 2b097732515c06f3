"""What ``analyze``, ``check`` and ``diff`` share: options and policy become settings, settings become a Result."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeprobe.cli.options import parse_limits, split
from moeprobe.errors import OptionError
from moeprobe.parallel.launch import leads, misled, size
from moeprobe.reporting.text import loggable
from moeprobe.settings import CommandLine, PolicyFile, Settings, find_policy, resolve

if TYPE_CHECKING:
    from moeprobe.findings.result import Result, Setting
    from moeprobe.recipe import FailOn


_TEXTS = ("probe", "max-tokens")
"""Settings that say what the model reads."""


def settle(
    *,
    recipe: str | None = None,
    probe: str | None = None,
    max_tokens: int | None = None,
    select: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    limit: tuple[str, ...] = (),
    baseline: str | None = None,
    fail_on: "FailOn | None" = None,
    default: str = "full",
    without: Sequence[str] = (),
) -> Settings:
    """Put the command line over the policy of the working directory, and say on stderr which one that is.

    ``default`` is the recipe where none is named, ``without`` are keys of the policy that the command does not obey.

    Raises:
        OptionError: an option or the policy cannot be used.

    """
    given = CommandLine(recipe, probe, max_tokens, split(select), split(ignore), parse_limits(limit), fail_on, baseline)
    file = find_policy(Path.cwd())
    if file is not None:
        if leads():
            _announce(file)
        check_names(str(file.path), file.policy.select, file.policy.ignore, file.policy.limits)
    return resolve(given, file and file.without(without), default)


def measure(
    model: str, settings: Settings, *, quiet: bool = False, save_records: Path | None = None, **options: Any
) -> "Result":
    """Analyse a model as the settings say; the result keeps them. A forward pass that fails is told on stderr.

    Raises:
        OptionError: texts are set on the command line for an analysis that reads none.

    """
    if options.get("weights_only"):
        texts = [one.name for one in settings.origins if one.origin == "command line" and one.name in _TEXTS]
        if texts:
            raise OptionError(
                f"--weights-only reads no text, so --{texts[0]} has no meaning; leave out one of the two."
            )
    from moeprobe.pipeline import analyze

    announce_processes(str(options.get("parallel", "data")))
    result = analyze(
        model,
        recipe=settings.recipe,
        baseline=settings.baseline,
        save_records=save_records,
        announce=partial(click.echo, err=True) if leads() and not quiet else (lambda _: None),
        **_run(quiet),
        **options,
    )
    if result.forward_failure is not None and leads():
        click.echo(loggable(f"moeprobe: Only what the weights show was judged: {result.forward_failure}."), err=True)
    return result.model_copy(update={"settings": settings.origins})


def announce_processes(parallel: str) -> None:
    """Say on stderr how many processes really run, where a launcher was used."""
    if size() > 1 and leads():
        shared = "texts" if parallel == "data" else "weights"
        click.echo(f"Processes: {size()}, which share the {shared}.", err=True)
    if (warning := misled()) is not None:
        click.echo(f"Processes: 1. {warning}", err=True)


def compare(
    base: str, tuned: str, settings: Settings, *, texts: str | None, max_tokens: int | None, quiet: bool, **options: Any
) -> "Result":
    """Compare two models as the settings say; ``texts`` and ``max_tokens`` win over those of a saved result.

    The result keeps the settings, with the texts that were read and the detectors that a comparison stands for.
    """
    from moeprobe.comparison import diff

    result = diff(base, tuned, recipe=settings.recipe, probe=texts, max_tokens=max_tokens, **_run(quiet), **options)
    probe = result.recipe["probe"]
    read = {"probe": probe["texts"], "max-tokens": probe["max_tokens"], "select": result.recipe["select"]}

    def as_read(setting: "Setting") -> "Setting":
        value = read.get(setting.name, setting.value)
        if value == setting.value:
            return setting
        origin = setting.origin if setting.name == "select" else "the saved result"
        return setting.model_copy(update={"value": value, "origin": origin})

    return result.model_copy(update={"settings": [as_read(setting) for setting in settings.origins]})


def _run(quiet: bool) -> dict[str, Any]:
    """What the terminal adds: progress bars where somebody looks, and the command to print in reports."""
    return {
        "progress": not quiet and sys.stderr.isatty() and leads(),
        "command": shlex.join(["moeprobe", *sys.argv[1:]]),
    }


def check_names(
    source: str,
    select: Sequence[str],
    ignore: Sequence[str],
    limits: Mapping[str, Mapping[str, float]],
    where: Callable[[tuple[str | int, ...]], str] = lambda _: "",
) -> None:
    """Do nothing if every detector and limit that a file names exists.

    Args:
        source: how the file is named in the message.
        select, ignore: words for detectors.
        limits: detector name -> limit name -> value.
        where: gives another name for a place in the file, with its line.

    Raises:
        OptionError: one does not exist, or a limit cannot have this value.

    """
    from moeprobe.detectors.registry import find, resolve_limits

    tries: list[tuple[tuple[str | int, ...], Callable[[], object]]] = []
    for key, words in (("select", select), ("ignore", ignore)):
        tries += [((key, place), partial(find, word)) for place, word in enumerate(words)]
    for name, values in limits.items():
        tries.append((("limits", name), partial(resolve_limits, {name: {}})))
        tries += [
            (("limits", name, limit), partial(resolve_limits, {name: {limit: value}}))
            for limit, value in values.items()
        ]
    for place, attempt in tries:
        try:
            attempt()
        except OptionError as error:
            raise OptionError(f"{where(place) or source}: {error}") from error


def _announce(file: PolicyFile) -> None:
    over = f" ({file.unused.name} beside it has a [tool.moeprobe] too, which is not used)" if file.unused else ""
    here = Path.cwd()
    path = file.path.relative_to(here) if file.path.is_relative_to(here) else file.path
    click.echo(loggable(f"Policy: {path}{over}"), err=True)
