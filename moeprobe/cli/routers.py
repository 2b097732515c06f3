"""``moeprobe routers MODEL``: the facts of every router."""

import sys
from typing import Any

import click

from moeprobe.cli.options import loading_options


@click.command("routers")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Every fact, as JSON lines.")
@click.option("--run", is_flag=True, help="Load the model and run each router on random input, to measure its rule.")
@loading_options
def command(model: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Print the facts of every router of MODEL, without any text.

    They are those of the files: the routers' tensors and the rule that the config declares. With --run the model is
    loaded, each router is run on its own on random input, and the rule that it follows is fitted to what it returns.
    """
    from moeprobe.reporting.terminal import router_table
    from moeprobe.survey import routers

    found = routers(model, progress=not quiet and sys.stderr.isatty(), **options)
    if as_json:
        for router in found:
            click.echo(router.model_dump_json())
    else:
        click.echo(router_table(found))
