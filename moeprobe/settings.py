"""Settings: the command line over the policy file over the recipe over the defaults, each with its origin.

The policy of a repository is the ``[tool.moeprobe]`` table of a pyproject.toml, or a moeprobe.toml with the same keys
at its top:

    recipe = "ci"                        # a built-in recipe, or a YAML file beside this one
    select = ["flat-scores", "MP2"]
    ignore = ["low-precision-routing"]
    fail-on = "warning"
    baseline = "base/result.json"
    [tool.moeprobe.limits.flat-scores]
    std_warning = 0.02

The nearest one from the working directory upwards counts. ``select`` and ``ignore`` of a higher level replace those of
a lower one; limits are merged one by one. The baseline is for ``check`` alone (``analyze`` makes it), and ``diff``
takes ``ignore``, ``fail-on`` and ``limits``: recipe and select are made for a single model.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from moeprobe.errors import OptionError
from moeprobe.findings.result import Setting
from moeprobe.legible import legible
from moeprobe.recipe import FailOn, Recipe, adapt, first_problem, load_recipe, recipe_files, recipe_names
from moeprobe.regular_file import read_regular

_MOST_BYTES = 1 << 24
Limits = Mapping[str, Mapping[str, float]]


class Policy(BaseModel):
    """What a policy file may say; None and empty leave it to the recipe."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-"), populate_by_name=False
    )

    recipe: str | None = None
    select: list[str] = []
    ignore: list[str] = []
    fail_on: FailOn | None = None
    limits: dict[str, dict[str, float]] = {}
    baseline: str | None = None


@dataclass(frozen=True)
class PolicyFile:
    """A policy, the file that holds it, and the one beside it that is not used (None where there is none)."""

    path: Path
    policy: Policy
    unused: Path | None = None

    def without(self, keys: Iterable[str]) -> "PolicyFile":
        """The same file as if it did not say anything about these keys of the policy."""
        unsaid = Policy()
        return replace(self, policy=self.policy.model_copy(update={key: getattr(unsaid, key) for key in keys}))


@dataclass(frozen=True)
class CommandLine:
    """What the command line sets; None and empty leave it to the policy file."""

    recipe: str | None = None
    probe: str | None = None
    max_tokens: int | None = None
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    limits: Limits = field(default_factory=dict)
    fail_on: FailOn | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class Settings:
    """What counts in the end: the recipe with everything in it, the baseline, and the origin of each value.

    ``read`` are the files that were read for it: the policy, and a recipe with all that it includes.
    """

    recipe: Recipe
    baseline: str | None
    origins: list[Setting]
    read: tuple[Path, ...] = ()


def find_policy(start: Path) -> PolicyFile | None:
    """Find the policy file nearest to a folder, upwards; a pyproject.toml without a [tool.moeprobe] is passed by.

    Raises:
        OptionError: it cannot be read, is not valid TOML, or has an unknown key or a value of the wrong kind; or a
            table is named almost like moeprobe's.

    """
    for folder in (start, *start.parents):
        own, project = folder / "moeprobe.toml", folder / "pyproject.toml"
        # Also what is no regular file: a policy that cannot be read must not be passed by.
        table = _table(project) if os.path.lexists(project) else None
        if os.path.lexists(own):
            return PolicyFile(own, _policy(_toml(own), own), None if table is None else project)
        if table is not None:
            return PolicyFile(project, _policy(table, project, "tool.moeprobe."))
    return None


def resolve(given: CommandLine, file: PolicyFile | None, default: str = "full") -> Settings:
    """Put the levels on top of each other; ``default`` is the recipe where none is named.

    Raises:
        OptionError: the recipe does not exist or is not valid.

    """
    policy = file.policy if file else Policy()
    name = file.path.name if file else ""
    chosen = given.recipe or _beside(file, policy.recipe, recipe_names()) or default
    written = _load(chosen, file if file and not given.recipe and policy.recipe else None)
    baseline = given.baseline or _beside(file, policy.baseline)
    below = {detector: dict(values) for detector, values in policy.limits.items()}
    for detector, values in given.limits.items():
        below.setdefault(detector, {}).update(values)
    recipe = adapt(
        written, given.probe, given.max_tokens, given.select or policy.select, given.ignore or policy.ignore, below
    )
    fail_on = given.fail_on or policy.fail_on or written.fail_on
    recipe = recipe.model_copy(update={"fail_on": fail_on})

    in_recipe = f"recipe {written.name}"
    says = written.model_fields_set | {f"probe.{key}" for key in written.probe.model_fields_set}

    def origin(key: str, on_line: object, in_file: object = None) -> str:
        if on_line:
            return "command line"
        return name if in_file else in_recipe if key in says else "default"

    origins = [
        Setting(
            name="recipe",
            value=chosen if chosen in recipe_names() else legible(written.name),
            origin=origin("", given.recipe, policy.recipe),
        ),
        Setting(name="probe", value=legible(recipe.probe.texts), origin=origin("probe.texts", given.probe)),
        Setting(name="max-tokens", value=recipe.probe.max_tokens, origin=origin("probe.max_tokens", given.max_tokens)),
        Setting(name="select", value=recipe.select, origin=origin("select", given.select, policy.select)),
        Setting(name="ignore", value=recipe.ignore, origin=origin("ignore", given.ignore, policy.ignore)),
        Setting(name="fail-on", value=fail_on, origin=origin("fail_on", given.fail_on, policy.fail_on)),
        Setting(
            name="baseline",
            value=None if baseline is None else legible(baseline),
            origin=origin("", given.baseline, policy.baseline),
        ),
    ]
    origins += [
        Setting(
            name=f"limits.{detector}.{limit}",
            value=value,
            origin="command line"
            if limit in given.limits.get(detector, {})
            else name
            if limit in policy.limits.get(detector, {})
            else in_recipe,
        )
        for detector, values in recipe.limits.items()
        for limit, value in values.items()
    ]
    read = [*([file.path] if file else []), *recipe_files(chosen)]
    return Settings(recipe, baseline, origins, tuple(read))


def _beside(file: PolicyFile | None, value: str | None, names: Sequence[str] = ()) -> str | None:
    """A path that a policy file names, seen from the folder of that file; names stay as they are."""
    if file is None or value is None or value in names or not (names == () or value.endswith((".yaml", ".yml"))):
        return value
    return str(file.path.parent / Path(os.path.expanduser(value)))


def _load(recipe: str, named_by: PolicyFile | None) -> Recipe:
    try:
        return load_recipe(recipe)
    except OptionError as error:
        if named_by is None:
            raise
        raise OptionError(f"{named_by.path} names a recipe that cannot be used. {error}") from error


def _toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_regular(path, _MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise OptionError(f"Cannot read {path}: {error.strerror}.") from error
    except RecursionError as error:
        raise OptionError(f"{path} is not valid TOML: it is nested too deep.") from error
    except ValueError as error:
        why = "it holds a number of more than 4,300 digits" if "digits" in str(error) else str(error)
        raise OptionError(f"{path} is not valid TOML: {' '.join(why.split())[:300]}.") from error


def _table(path: Path) -> object | None:
    """The [tool.moeprobe] table, None where there is none."""
    tool = _toml(path).get("tool")
    if not isinstance(tool, dict):
        return None
    if "moeprobe" not in tool and (near := difflib.get_close_matches("moeprobe", list(tool), n=1, cutoff=0.85)):
        raise OptionError(f"{path} has a [tool.{near[0]}], which no policy is read from; write [tool.moeprobe].")
    return tool.get("moeprobe")


def _policy(data: object, path: Path, prefix: str = "") -> Policy:
    if not isinstance(data, dict):
        raise OptionError(f"{path}: {prefix.rstrip('.')} must be a table of keys and values.")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise OptionError(f"{path} is not valid: {prefix}{first_problem(error, Policy)[1]}.") from error
