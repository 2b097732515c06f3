"""The group of all commands: one file a command, loaded when it is called, so that help costs no torch."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from moeprobe import __version__
from moeprobe.cli.streams import unsaid
from moeprobe.environment import refuse_unparsable_endpoint
from moeprobe.errors import OptionError, OutputError

_HELP = {"-h", "--help"}
_HEAVY = {"analyze", "check", "demo", "diff", "gates", "routers"}
"""Commands that load torch."""
_LEAST_MEMORY = 600_000_000
_COMMANDS = ("analyze", "check", "demo", "diff", "explain", "gates", "recipe", "report", "routers")


@contextmanager
def _heard() -> Iterator[None]:
    """Within this block a stream that takes no more is an error like any other; click would exit with 1."""
    try:
        yield
    except OSError as error:
        if (sentence := unsaid(error)) is not None:
            raise OutputError(sentence) from error
        raise


class _Lazy(click.Group):
    """A group whose commands live in modules of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"moeprobe.cli.{cmd_name}").command
        return command

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _heard():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _heard():
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from moeprobe.recipe import suggestion

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{suggestion(args[0], list(_COMMANDS))}.")
        return super().resolve_command(ctx, args)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="moeprobe")
def main() -> None:
    """Inspect the routing of Mixture-of-Experts checkpoints."""
    try:
        os.getcwd()
    except OSError as error:
        raise OptionError(
            "The working directory is gone, or may not be looked at; change to a folder that exists."
        ) from error
    refuse_unparsable_endpoint()
    if click.get_current_context().invoked_subcommand in _HEAVY and _HELP.isdisjoint(sys.argv):
        _refuse_small_memory()


def _refuse_small_memory() -> None:
    """Do nothing if torch can be loaded at all; where it cannot, the C library ends the process without a word.

    Raises:
        OptionError: the limit of this process is too small.

    """
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_MEMORY:
        raise OptionError(
            f"This process may use {limit / 1e6:,.0f} MB of memory (ulimit -v), and the libraries that it loads need "
            f"more than {_LEAST_MEMORY / 1e6:,.0f} MB; raise the limit."
        )
