"""The group of all commands: one file a command, loaded when it is called, so that help costs no torch."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from moeprobe import __version__
from moeprobe.cli.streams import unsaid
from moeprobe.environment import refuse_unparsable_endpoint
from moeprobe.errors import OptionError, OutputError

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
