"""The command line: one file a command, loaded when it is called, so that help costs no torch."""

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from moeprobe import __version__
from moeprobe.errors import EXIT_NOT_CHECKED, MoeprobeError

_COMMANDS = ("analyze", "check", "demo", "diff", "explain", "gates", "recipe", "report", "routers")


class _Lazy(click.Group):
    """A group whose commands live in modules of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"moeprobe.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from moeprobe.recipe import suggestion

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{suggestion(args[0], list(_COMMANDS))}.")
        return super().resolve_command(ctx, args)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="moeprobe")
def main() -> None:
    """Inspect the routing of Mixture-of-Experts checkpoints."""


def run() -> NoReturn:
    """Entry point: every refusal is one sentence and exit 2, a crash is 2 as well, never 1.

    A Python traceback and click's own exceptions would exit with 1, which means *findings* here.
    """
    debug = bool(os.environ.get("MOEPROBE_DEBUG"))
    try:
        code = main.main(prog_name="moeprobe", standalone_mode=False)
        _leave(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _refuse("Interrupted. Nothing that was already written is lost.")
    except KeyboardInterrupt:
        _refuse("Interrupted. Nothing that was already written is lost.")
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            _refuse(f"{error.format_message()} See `{error.ctx.command_path} --help`.")
        _refuse(error.format_message())
    except MoeprobeError as error:
        if debug:
            raise
        _refuse(str(error))
    except BrokenPipeError:
        sys.stdout = None
        _leave(EXIT_NOT_CHECKED)
    except MemoryError:
        _refuse("Out of memory. Try --dtype bfloat16, --device-map auto, or fewer tokens with --max-tokens.")
    except Exception as error:
        if debug:
            raise
        what = " ".join(str(error).split())[:300]
        _refuse(
            f"moeprobe failed in a way that it does not know ({type(error).__name__}: {what}). "
            "Run again with MOEPROBE_DEBUG=1 for the traceback, and please report it."
        )


def _refuse(sentence: str) -> NoReturn:
    from moeprobe.reporting.text import loggable

    click.echo(loggable(f"moeprobe: {sentence}"), err=True)
    _leave(EXIT_NOT_CHECKED)


def _leave(code: int) -> NoReturn:
    sys.exit(code)
