"""Settings: who wins, where it is said to come from, and policies with mistakes."""

from pathlib import Path

import pytest

from moeprobe.errors import OptionError
from moeprobe.settings import CommandLine, Settings, find_policy, resolve
from tests.commandline import Moeprobe


def origins(settings: Settings) -> dict[str, str]:
    return {setting.name: setting.origin for setting in settings.origins}


def policy(folder: Path, text: str, name: str = "moeprobe.toml") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_defaults() -> None:
    settings = resolve(CommandLine(), None)
    assert (settings.recipe.name, settings.recipe.fail_on, settings.baseline) == ("full", "error", None)
    assert origins(settings) == {
        "recipe": "default", "probe": "default", "max-tokens": "recipe full", "select": "default",
        "ignore": "default", "fail-on": "default", "baseline": "default",
    }  # fmt: skip


def test_each_level_over_the_one_below(tmp_path: Path) -> None:
    policy(
        tmp_path,
        'recipe = "mixtral"\nselect = ["MP1"]\nfail-on = "warning"\nbaseline = "base/result.json"\n'
        "[limits.flat-scores]\nstd_error = 0.1\nstd_warning = 0.2\n",
    )
    file = find_policy(tmp_path)
    by_file = resolve(CommandLine(), file)
    assert by_file.recipe.name == "mixtral"
    assert (by_file.recipe.select, by_file.recipe.ignore) == (["MP1"], ["bias-runaway", "hash-boundary"])
    assert by_file.recipe.fail_on == "warning"
    assert by_file.baseline == str(tmp_path / "base/result.json")
    assert by_file.recipe.limits["overloaded-experts"] == {"overload_odds": 3}
    said = origins(by_file)
    assert (said["recipe"], said["select"], said["fail-on"], said["baseline"]) == ("moeprobe.toml",) * 4
    assert said["ignore"] == "recipe mixtral"
    assert said["limits.flat-scores.std_error"] == "moeprobe.toml"
    assert said["limits.overloaded-experts.overload_odds"] == "recipe mixtral"

    line = CommandLine(
        recipe="quick", select=["MP3"], limits={"flat-scores": {"std_error": 0.3}}, fail_on="error", baseline="b.json"
    )
    by_line = resolve(line, file)
    assert (by_line.recipe.name, by_line.recipe.select, by_line.recipe.fail_on) == ("quick", ["MP3"], "error")
    assert by_line.recipe.limits == {"flat-scores": {"std_error": 0.3, "std_warning": 0.2}}
    assert by_line.baseline == "b.json"
    said = origins(by_line)
    assert (said["recipe"], said["select"], said["fail-on"], said["baseline"]) == ("command line",) * 4
    assert said["limits.flat-scores.std_error"] == "command line"
    assert said["limits.flat-scores.std_warning"] == "moeprobe.toml"


def test_the_nearest_policy_upwards(tmp_path: Path) -> None:
    policy(tmp_path, '[tool.moeprobe]\nrecipe = "quick"\n', "pyproject.toml")
    policy(tmp_path / "a/b", '[tool.other]\nrecipe = "quick"\n', "pyproject.toml")
    found = find_policy(tmp_path / "a/b")
    assert found is not None
    assert (found.path, found.policy.recipe, found.unused) == (tmp_path / "pyproject.toml", "quick", None)
    policy(tmp_path / "a", 'recipe = "ci"\n')
    found = find_policy(tmp_path / "a/b")
    assert found is not None
    assert found.path == tmp_path / "a/moeprobe.toml"


def test_moeprobe_toml_wins_over_the_pyproject_beside_it(tmp_path: Path) -> None:
    policy(tmp_path, '[tool.moeprobe]\nrecipe = "quick"\n', "pyproject.toml")
    policy(tmp_path, 'recipe = "ci"\n')
    found = find_policy(tmp_path)
    assert found is not None
    assert (found.policy.recipe, found.unused) == ("ci", tmp_path / "pyproject.toml")


def test_a_recipe_file_is_looked_for_beside_the_policy(tmp_path: Path) -> None:
    policy(tmp_path, 'recipe = "own.yaml"\n')
    (tmp_path / "own.yaml").write_text("name: own\ninclude: quick\nfail_on: warning\n")
    (tmp_path / "sub").mkdir()
    settings = resolve(CommandLine(), find_policy(tmp_path / "sub"))
    assert (settings.recipe.name, settings.recipe.fail_on) == ("own", "warning")
    assert origins(settings)["fail-on"] == "recipe own"
    assert origins(settings)["max-tokens"] == "recipe own"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('fail_on = "error"', "fail_on is not a known key (did you mean 'fail-on'?)"),
        ('recipes = "ci"', "recipes is not a known key (did you mean 'recipe'?)"),
        ('fail-on = "info"', "fail-on: input should be 'error' or 'warning'"),
        ("select = 3", "select: input should be a valid list"),
        ('limits = "high"', "limits: input should be a valid dictionary"),
        ("recipe = ", "is not valid TOML"),
        ('recipe = "ci"\nrecipe = "ci"', "is not valid TOML"),
    ],
)
def test_a_policy_with_a_mistake(tmp_path: Path, text: str, words: str) -> None:
    policy(tmp_path, text)
    with pytest.raises(OptionError) as error:
        find_policy(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "moeprobe.toml") in str(error.value)


def test_a_mistake_in_a_pyproject_names_the_table(tmp_path: Path) -> None:
    policy(tmp_path, '[tool.moeprobe]\nbase-line = "x"\n', "pyproject.toml")
    with pytest.raises(OptionError, match=r"tool\.moeprobe\.base-line is not a known key \(did you mean 'baseline'"):
        find_policy(tmp_path)
    policy(tmp_path, "[tool.moe-probe]\nrecipe = 3\n", "pyproject.toml")
    with pytest.raises(OptionError, match=r"has a \[tool\.moe-probe\], which no policy is read from"):
        find_policy(tmp_path)
    policy(tmp_path, "[tool]\nmoeprobe = 3\n", "pyproject.toml")
    with pytest.raises(OptionError, match=r"tool\.moeprobe must be a table"):
        find_policy(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('recipe = "fulll"', "names a recipe that cannot be used. Unknown recipe 'fulll' (did you mean 'full'?)"),
        ('ignore = ["flat-scores", "flat-skores"]', "Unknown detector 'flat-skores' (did you mean 'flat-scores'?)"),
        ("[limits.flat-scores]\nstd_eror = 1", "flat-scores has no limit 'std_eror' (did you mean 'std_error'?)"),
        ("[limits.flat-scores]\nstd_error = -1", "The limit flat-scores.std_error cannot be -1.0"),
        ("[limits.flat-skores]\nstd_error = 1", "unknown detector 'flat-skores' (did you mean 'flat-scores'?)"),
    ],
)
def test_names_in_a_policy_are_checked_before_any_work(
    moeprobe: Moeprobe, checkpoints: Path, text: str, words: str
) -> None:
    policy(Path(), text)
    outcome = moeprobe("check", checkpoints / "mixtral")
    assert outcome.code == 2
    policy_line, sentence = outcome.err.strip().splitlines()
    assert policy_line.startswith("Policy: ")
    assert words in sentence
    assert "moeprobe.toml" in sentence


def test_the_policy_is_used_and_said(moeprobe: Moeprobe, checkpoints: Path) -> None:
    policy(
        Path(),
        '[tool.moeprobe]\nrecipe = "quick"\nselect = ["flat-scores"]\nfail-on = "warning"\n'
        "[tool.moeprobe.limits.flat-scores]\nstd_warning = 1000\n",
        "pyproject.toml",
    )
    outcome = moeprobe("check", checkpoints / "mixtral", "--max-tokens", "1500")
    assert outcome.code == 1
    assert outcome.err.strip() == "Policy: pyproject.toml"
    assert "FAILED: 4 findings of severity warning or above." in outcome.out
    outcome = moeprobe("check", checkpoints / "mixtral", "--max-tokens", "1500", "--fail-on", "error")
    assert outcome.code == 0


def test_analyze_makes_the_baseline_and_does_not_read_the_policy_s(moeprobe: Moeprobe, checkpoints: Path) -> None:
    policy(Path(), 'recipe = "quick"\nselect = ["flat-scores"]\nbaseline = "base/result.json"\n')
    few = ("--max-tokens", "1500")
    outcome = moeprobe("check", checkpoints / "mixtral", *few)
    assert (outcome.code, "Cannot read" in outcome.err) == (2, True)
    assert moeprobe("analyze", checkpoints / "mixtral", *few, "-o", "base").code == 0
    outcome = moeprobe("check", checkpoints / "mixtral", *few)
    assert outcome.code == 0
    assert "Baseline: mixtral" in outcome.out
