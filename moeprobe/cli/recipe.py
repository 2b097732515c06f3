"""``moeprobe recipe``: the recipes that come with the package."""

import click


@click.group("recipe")
def command() -> None:
    """List and show recipes."""


@command.command("list")
def list_recipes() -> None:
    """List the recipes that come with the package."""
    from moeprobe.recipe import load_recipe, recipe_names

    for name in recipe_names():
        click.echo(f"{name:8} {load_recipe(name).description}")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show a recipe with every value that it implies, as YAML that can be edited and given to --recipe."""
    import yaml

    from moeprobe.recipe import load_recipe

    click.echo(yaml.safe_dump(load_recipe(name).model_dump(), sort_keys=False, allow_unicode=True).rstrip())
