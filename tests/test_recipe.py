"""Recipes: unknown keys are refused with a hint, the command line wins over the recipe."""

from pathlib import Path

import pytest

from moeprobe.errors import OptionError
from moeprobe.recipe import Recipe, adapt, load_recipe, recipe_names


def test_every_recipe_loads() -> None:
    assert {"full", "quick"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: own\nprobe: {max_tokens: 100}\n")
    assert load_recipe(str(tmp_path / "own.yaml")).probe.max_tokens == 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nprobes: {}\n", "probes is not a known key (did you mean 'probe'?)"),
        ("name: x\nprobe: {max_token: 3}\n", "max_token is not a known key (did you mean 'max_tokens'?)"),
        ("name: x\nprobe: {max_tokens: many}\n", "probe.max_tokens"),
        ("name: x\nprobe: {max_tokens: 0}\n", "probe.max_tokens"),
        ("- a list\n", "must be a mapping"),
        ("name: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(OptionError) as error:
        load_recipe(str(tmp_path / "own.yaml"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_line_wins() -> None:
    recipe = Recipe(name="x", select=["MP1"], limits={"flat-scores": {"std_error": 0.1, "std_warning": 0.2}})
    adapted = adapt(recipe, "mine.txt", 50, ["MP3"], [], {"flat-scores": {"std_error": 0.3}})
    assert adapted.probe.texts == "mine.txt"
    assert adapted.probe.max_tokens == 50
    assert adapted.select == ["MP3"]
    assert adapted.limits == {"flat-scores": {"std_error": 0.3, "std_warning": 0.2}}
    assert adapt(recipe, None, None, [], [], None) == recipe
