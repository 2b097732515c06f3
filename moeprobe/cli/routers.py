"""``moeprobe routers MODEL``: the facts of every router."""

import sys
from typing import Any

import click

from moeprobe.cli.options import loading_options, weights_only_option
from moeprobe.errors import EXIT_CLEAN, EXIT_NOT_CHECKED


@click.command("routers")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Every fact, as JSON lines.")
@loading_options
@weights_only_option
def command(model: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Print the facts of every router of MODEL, measured without any text.

    The model runs once on random token ids; the rule of each router is fitted to what it then does. With
    --weights-only nothing is loaded: the facts are those of the files, and the rule is the one that the config
    declares. Exits 2 where the model's forward pass fails: the facts are then what the weights show.
    """
    from moeprobe.records.run import FAILS
    from moeprobe.reporting.terminal import router_table
    from moeprobe.reporting.text import loggable
    from moeprobe.survey import routers

    found = routers(model, progress=not quiet and sys.stderr.isatty(), **options)
    if as_json:
        for router in found:
            click.echo(router.model_dump_json())
    else:
        click.echo(router_table(found))
    failed = next((router.reason for router in found if router.reason.startswith(FAILS)), None)
    if failed is None:
        return EXIT_CLEAN
    click.echo(loggable(f"moeprobe: Only what the weights show is told: {failed}."), err=True)
    return EXIT_NOT_CHECKED
