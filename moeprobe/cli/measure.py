"""What ``analyze`` and ``check`` share: options and policy become settings, settings become a Result."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeprobe.cli.options import parse_limits, split
from moeprobe.errors import OptionError
from moeprobe.settings import CommandLine, PolicyFile, Settings, find_policy, resolve

if TYPE_CHECKING:
    from moeprobe.findings.result import Result
    from moeprobe.recipe import FailOn


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
) -> Settings:
    """Put the command line over the policy of the working directory, and say on stderr which one that is.

    Raises:
        OptionError: an option or the policy cannot be used.

    """
    given = CommandLine(recipe, probe, max_tokens, split(select), split(ignore), parse_limits(limit), fail_on, baseline)
    file = find_policy(Path.cwd())
    if file is not None:
        _announce(file)
        check_names(str(file.path), file.policy.select, file.policy.ignore, file.policy.limits)
    return resolve(given, file)


def measure(
    model: str, settings: Settings, *, quiet: bool = False, save_records: Path | None = None, **options: Any
) -> "Result":
    """Analyse a model as the settings say; the result keeps them."""
    from moeprobe.pipeline import analyze

    result = analyze(
        model,
        recipe=settings.recipe,
        baseline=settings.baseline,
        save_records=save_records,
        announce=(lambda _: None) if quiet else partial(click.echo, err=True),
        progress=not quiet and sys.stderr.isatty(),
        command=shlex.join(["moeprobe", *sys.argv[1:]]),
        **options,
    )
    return result.model_copy(update={"settings": settings.origins})


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
    click.echo(f"Policy: {file.path}{over}", err=True)
