"""``moeprobe routers MODEL``: the facts of every router."""

import sys
from typing import Any

import click

from moeprobe.cli.options import loading_options, weights_only_option


@click.command("routers")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Every fact, as JSON lines.")
@loading_options
@weights_only_option
def command(model: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Print the facts of every router of MODEL, measured without any text.

    The model runs once on random token ids; the rule of each router is fitted to what it then does. With
    --weights-only nothing is loaded: the facts are those of the files, and the rule is the one that the config
    declares.
    """
    from moeprobe.reporting.terminal import router_table
    from moeprobe.survey import routers

    found = routers(model, progress=not quiet and sys.stderr.isatty(), **options)
    if as_json:
        for router in found:
            click.echo(router.model_dump_json())
    else:
        click.echo(router_table(found))
