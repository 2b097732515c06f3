"""Recipes: unknown keys are refused with a hint, the command line wins over the recipe."""

import json
from pathlib import Path

import pytest

from moeprobe.checkpoint.open import has_native_class
from moeprobe.cli.measure import check_names
from moeprobe.errors import OptionError
from moeprobe.recipe import Recipe, RecipeFile, adapt, load_recipe, recipe_names, recipe_path
from moeprobe.yaml_source import read_yaml
from tests.commandline import Moeprobe


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


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_what_exists(name: str) -> None:
    recipe = load_recipe(name)
    check_names(name, recipe.select, recipe.ignore, recipe.limits)
    assert [kind for kind in recipe.model_types if not has_native_class(kind)] == []
    own = set(read_yaml(recipe_path(name)).data) - {"name", "description", "model_types", "include"}
    assert own, "a copy of another recipe"


def test_include_merges_at_every_depth(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/limits.yaml").write_text(
        "name: limits\ndescription: theirs\nmodel_types: [mixtral]\nignore: [MP1, MP2]\n"
        "limits: {flat-scores: {std_error: 0.1, std_warning: 0.2}}\n"
    )
    (tmp_path / "middle.yaml").write_text("name: middle\ninclude: deep/limits.yaml\nscale: {max_length: 64}\n")
    (tmp_path / "own.yaml").write_text(
        "name: own\ninclude: [middle.yaml, quick]\nignore: [MP3]\nlimits: {flat-scores: {std_error: 0.3}}\n"
    )
    recipe = load_recipe(str(tmp_path / "own.yaml"))
    assert (recipe.name, recipe.description, recipe.model_types) == ("own", "", [])
    assert recipe.limits == {"flat-scores": {"std_error": 0.3, "std_warning": 0.2}}
    assert recipe.ignore == ["MP3"]
    assert (recipe.scale.max_tokens, recipe.scale.max_length) == (0, 64)
    assert recipe.probe == load_recipe("quick").probe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: own\ninclude: own.yaml\n", "includes itself (own.yaml -> own.yaml)"),
        ("name: own\ninclude: other.yaml\n", "includes itself (own.yaml -> other.yaml -> own.yaml)"),
        ("name: own\ninclude: [full, ful]\n", "own.yaml, line 2: Unknown recipe 'ful' (did you mean 'full'?)"),
        ("name: own\ninclude: missing.yaml\n", "Cannot read the recipe"),
        ("name: own\ninclude: wrong.yaml\n", "wrong.yaml, line 3 is not valid: probe.max_token is not a known key"),
        ("name: own\ninclude: 3\n", "own.yaml, line 2 is not valid: include"),
        ("include: full\n", "name: field required"),
        ("name: own\nname: two\n", "line 2: the key 'name' stands there for the second time (first in line 1)"),
        ("name: own\nprobe: &a [*a, *a]\n", "an alias in line 2 refers to what it stands in"),
        ("name: own\n1: 2\n", "own.yaml"),
        ("name: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("", "must be a mapping"),
    ],
)
def test_a_wrong_include_or_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("name: other\ninclude: own.yaml\n")
    (tmp_path / "wrong.yaml").write_text("name: wrong\nprobe:\n  max_token: 3\n")
    with pytest.raises(OptionError) as error:
        load_recipe(str(tmp_path / "own.yaml"))
    assert words in str(error.value)


def test_a_family_recipe_is_refused_for_another_family() -> None:
    load_recipe("mixtral").refuse_other_model("mixtral")
    load_recipe("full").refuse_other_model("anything")
    with pytest.raises(OptionError, match="made for mixtral, and this model is of type deepseek_v3"):
        load_recipe("mixtral").refuse_other_model("deepseek_v3")


def test_validate(moeprobe: Moeprobe) -> None:
    Path("good.yaml").write_text("name: good\ninclude: [mixtral, ci]\nignore: [MP701]\n")
    outcome = moeprobe("recipe", "validate", "good.yaml", recipe_path("full"))
    assert (outcome.code, outcome.err) == (0, "")
    Path("typo.yaml").write_text("name: typo\nlimits:\n  flat-scores:\n    std_eror: 1\n")
    Path("unknown.yaml").write_text("name: unknown\nignore:\n- MP1\n- MP9000\n")
    Path("nothing.yaml").write_text("name: nothing\nselect: [MP1]\nignore: [MP1]\n")
    outcome = moeprobe("recipe", "validate", "typo.yaml", "good.yaml", "unknown.yaml", "nothing.yaml", "missing.yaml")
    assert (outcome.code, outcome.out) == (2, "good.yaml: valid\n")
    typo, unknown, nothing, missing = outcome.err.strip().splitlines()
    assert typo.startswith("typo.yaml, line 4: flat-scores has no limit 'std_eror' (did you mean 'std_error'?)")
    assert unknown.startswith("unknown.yaml, line 4: Unknown detector 'MP9000'")
    assert nothing.startswith("nothing.yaml: Every selected detector is ignored")
    assert missing.startswith("Cannot read the recipe missing.yaml")


def test_copy_and_show(moeprobe: Moeprobe) -> None:
    assert moeprobe("recipe", "copy", "mixtral").code == 0
    assert Path("mixtral.yaml").read_bytes() == recipe_path("mixtral").read_bytes()
    assert load_recipe("./mixtral.yaml") == load_recipe("mixtral")
    assert "is there already" in moeprobe("recipe", "copy", "mixtral").sentence
    assert "(did you mean 'mixtral'?)" in moeprobe("recipe", "copy", "mixtrall").sentence
    assert "must end in .yaml" in moeprobe("recipe", "copy", "mixtral", "own").sentence
    Path("shown.yaml").write_text(moeprobe("recipe", "show", "ci").out)
    assert load_recipe("shown.yaml") == load_recipe("ci")


def test_the_schema_knows_every_key(moeprobe: Moeprobe) -> None:
    schema = json.loads(moeprobe("recipe", "schema").out)
    assert set(schema["properties"]) == set(RecipeFile.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["fail_on"]["enum"] == ["error", "warning"]
    probe = schema["$defs"]["ProbeRecipe"]
    assert (probe["additionalProperties"], probe["properties"]["max_tokens"]["minimum"]) == (False, 1)


def test_a_lattice_of_includes_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file includes the next one three times: 3**40 ways to the last."""
    import moeprobe.recipe as recipe

    for step in range(40):
        below = f"{step + 1}.yaml"
        (tmp_path / f"{step}.yaml").write_text(f"name: r{step}\ninclude: [{below}, ./{below}, {below}]\nseed: {step}\n")
    (tmp_path / "40.yaml").write_text("name: last\nprobe: {max_tokens: 7}\n")
    read: list[Path] = []
    monkeypatch.setattr(recipe, "read_yaml", lambda path, real=recipe.read_yaml: (read.append(path), real(path))[1])
    merged = load_recipe(str(tmp_path / "0.yaml"))
    assert (merged.name, merged.seed, merged.probe.max_tokens) == ("r0", 0, 7)
    assert len(read) == 41


def test_a_file_included_on_two_ways_counts_on_both(tmp_path: Path) -> None:
    """What is included later wins, also where it was merged before."""
    (tmp_path / "a.yaml").write_text("name: a\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("name: b\ninclude: a.yaml\nseed: 2\n")
    (tmp_path / "c.yaml").write_text("name: c\ninclude: a.yaml\n")
    for order, seed in (("b.yaml, c.yaml", 1), ("c.yaml, b.yaml", 2)):
        (tmp_path / "own.yaml").write_text(f"name: own\ninclude: [{order}]\n")
        assert load_recipe(str(tmp_path / "own.yaml")).seed == seed


def test_a_long_chain_of_includes(tmp_path: Path) -> None:
    for step in range(2000):
        (tmp_path / f"{step}.yaml").write_text(f"name: r{step}\ninclude: {step + 1}.yaml\n")
    with pytest.raises(OptionError, match="included through 50 others"):
        load_recipe(str(tmp_path / "0.yaml"))
