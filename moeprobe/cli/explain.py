"""``moeprobe explain DETECTOR``: a detector's own documentation."""

import click


@click.command("explain")
@click.argument("detector", required=False)
def command(detector: str | None) -> None:
    """Explain what DETECTOR (a name or a code) finds, how it measures and what to do.

    Without DETECTOR, list all of them.
    """
    from moeprobe.detectors.registry import DETECTORS, explain

    if detector is None:
        for known in DETECTORS:
            click.echo(explain(known.name).splitlines()[0])
    else:
        click.echo(explain(detector))
