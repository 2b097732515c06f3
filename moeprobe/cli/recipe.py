"""``moeprobe recipe``: the recipes that come with the package, and one's own."""

import json
from pathlib import Path

import click

from moeprobe.errors import EXIT_NOT_CHECKED, OptionError, OutputError
from moeprobe.reporting.text import loggable


@click.group("recipe")
def command() -> None:
    """List, show, copy and validate recipes."""


@command.command("list")
def list_recipes() -> None:
    """List the recipes that come with the package."""
    from moeprobe.recipe import load_recipe, recipe_names

    width = max(map(len, recipe_names()))
    for name in recipe_names():
        click.echo(f"{name:{width}}  {load_recipe(name).description}")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show a recipe with every value that it implies, as YAML that can be edited and given to --recipe."""
    import yaml

    from moeprobe.recipe import load_recipe

    click.echo(yaml.safe_dump(load_recipe(name).model_dump(), sort_keys=False, allow_unicode=True).rstrip())


@command.command("copy")
@click.argument("name")
@click.argument("file", required=False, type=click.Path())
def copy(name: str, file: str | None) -> None:
    """Copy a recipe as it was written, with its comments, to FILE (default: NAME.yaml), to make it one's own."""
    from moeprobe.findings.result import write_text
    from moeprobe.recipe import recipe_names, recipe_path, suggestion

    if name not in recipe_names():
        known = recipe_names()
        raise OptionError(f"Unknown recipe {name!r}{suggestion(name, known)}; known are {', '.join(known)}.")
    target = Path(file or f"{name}.yaml")
    if target.suffix not in (".yaml", ".yml"):
        raise OptionError(f"{target} must end in .yaml, so that --recipe takes it for a file.")
    if target.exists():
        raise OutputError(f"{target} is there already; give another name, or move it away.")
    written = write_text(target, recipe_path(name).read_text(encoding="utf-8"))
    click.echo(loggable(f"Recipe: {written}"))


@command.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def validate(files: tuple[str, ...]) -> int:
    """Check recipe files: keys, values, includes, detectors and limits.

    Says for each whether it is valid, with the line of the first fault, and exits 2 if one is not.
    """
    faults = 0
    for file in files:
        try:
            _validate(file)
            click.echo(loggable(f"{file}: valid"))
        except OptionError as error:
            faults += 1
            click.echo(loggable(str(error)), err=True)
    return EXIT_NOT_CHECKED if faults else 0


def _validate(file: str) -> None:
    from moeprobe.cli.measure import check_names
    from moeprobe.detectors.registry import choose
    from moeprobe.recipe import load_recipe, parse_recipe, recipe_path
    from moeprobe.yaml_source import read_yaml

    source = read_yaml(recipe_path(file))
    own = parse_recipe(source)
    check_names(file, own.select, own.ignore, own.limits, source.where)
    merged = load_recipe(file)
    check_names(f"{file}, through what it includes", merged.select, merged.ignore, merged.limits)
    try:
        choose(merged.select, merged.ignore)
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from error


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipe files, for editors."""
    from moeprobe.recipe import RecipeFile

    described = RecipeFile.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    click.echo(json.dumps(described, indent=2))
