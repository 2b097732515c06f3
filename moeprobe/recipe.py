"""Recipe: what to run, as data. YAML in, unknown keys refused, JSON Schema out."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moeprobe.errors import OptionError
from moeprobe.legible import legible
from moeprobe.yaml_source import YamlSource, read_yaml

FailOn = Literal["error", "warning"]
"""Severities that a check can fail at; an info never fails."""


MOST_TOKENS = 10**12
"""More than any probe can read."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeRecipe(_Part):
    """Which texts, and how many tokens of them.

    ``texts`` is ``builtin``, a text file, a folder, a JSONL file or a Hub data set. Documents are cut at
    ``max_length`` tokens; whole documents are taken in turn from every source until ``max_tokens`` is reached.
    """

    texts: str = "builtin"
    max_tokens: int = Field(default=16_384, ge=1, le=MOST_TOKENS)
    max_length: int = Field(default=512, ge=2, le=MOST_TOKENS)
    batch_tokens: int = Field(default=4_096, ge=2, le=MOST_TOKENS)


class ScaleRecipe(_Part):
    """The loss test of the routed branch's size. ``max_tokens`` 0 leaves it out.

    At most ``max_length`` tokens of a document are read (many short documents give a narrower interval than few
    long ones); ``single_layers`` is the number of layers that are
    tested alone, those first whose size is farthest off the others'. A sound layer costs two forward passes, the
    whole model eight, a wrong size some twenty.
    """

    max_tokens: int = Field(default=8_192, ge=0, le=MOST_TOKENS)
    max_length: int = Field(default=128, ge=2, le=MOST_TOKENS)
    single_layers: int = Field(default=8, ge=0, le=1_000_000)


class ChoiceRecipe(_Part):
    """The loss test of every layer's choice against random experts. ``max_tokens`` 0 leaves it out.

    It costs ``repetitions`` + 1 forward passes a layer, each over at most ``max_tokens`` tokens, and fewer
    where all passes together would exceed ``total_tokens``: a model with 48 layers reads some 3,600 tokens in
    each pass. At most ``max_length`` tokens of a document are read: many short documents give a narrower
    interval than few long ones.
    """

    max_tokens: int = Field(default=8_192, ge=0, le=MOST_TOKENS)
    max_length: int = Field(default=128, ge=2, le=MOST_TOKENS)
    repetitions: int = Field(default=2, ge=1, le=1_000)
    total_tokens: int = Field(default=524_288, ge=1, le=MOST_TOKENS)


class SpecialisationRecipe(_Part):
    """The chapter *What the experts do*, which judges nothing. ``enabled`` false leaves it out.

    A token id counts from ``token_occurrences`` occurrences on. Drops are simulated for the ``capacity_factors``, the
    placement of experts is planned for the numbers of ``devices`` that divide a layer's experts.
    """

    enabled: bool = False
    token_occurrences: int = Field(default=128, ge=2, le=MOST_TOKENS)
    capacity_factors: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = [1.0, 1.25, 1.5, 2.0]
    devices: list[Annotated[int, Field(ge=2, le=1_000_000)]] = [2, 4, 8, 16, 32, 64]


class Recipe(_Part):
    """What one analysis runs.

    ``select`` and ``ignore`` name detectors by name, code or prefix of either. ``limits`` maps a detector's
    name to the limits that it shall use instead of its defaults. ``seed`` drives the noise and the shuffles.
    ``fail_on`` is the least severity that fails a check. ``model_types`` are those (of config.json) that the recipe
    was made for; it is refused for any other. None named: it suits all.
    """

    name: str
    description: str = ""
    model_types: list[str] = []
    probe: ProbeRecipe = ProbeRecipe()
    scale: ScaleRecipe = ScaleRecipe()
    choice: ChoiceRecipe = ChoiceRecipe()
    specialisation: SpecialisationRecipe = SpecialisationRecipe()
    select: list[str] = []
    ignore: list[str] = []
    limits: dict[str, dict[str, float]] = {}
    fail_on: FailOn = "error"
    seed: int = Field(default=0, ge=0, lt=2**63)

    def told(self) -> dict[str, Any]:
        """All values, for a result: what comes from the command line is written so that it can be saved."""
        data = self.model_dump()
        data["probe"]["texts"] = legible(self.probe.texts)
        return data

    def refuse_other_model(self, model_type: str) -> None:
        """Do nothing for a model that the recipe was made for.

        Raises:
            OptionError: it was made for other models, so what it leaves out could hide a fault here.

        """
        if self.model_types and model_type not in self.model_types:
            raise OptionError(
                f"The recipe {self.name} is made for {' and '.join(self.model_types)}, and this model is of type "
                f"{model_type}; choose another one (`moeprobe recipe list`), or full."
            )


class RecipeFile(Recipe):
    """A recipe as it stands in a file. ``include`` names recipes (built-in, or files relative to this one).

    Their values are taken first, in their order, and this file's own values over them: mappings are merged,
    lists and single values replaced. Name, description and model types are always the file's own.
    """

    include: str | list[str] = []


def recipe_folder() -> Path:
    """The folder of the recipes that come with the package (in a checkout: ``recipes/`` at its top)."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def recipe_path(name: str, beside: Path | None = None) -> Path:
    """The file of a recipe: a built-in name, or a YAML file (relative to the folder ``beside``, if given).

    Raises:
        OptionError: it is neither.

    """
    known = recipe_names()
    if name in known:
        return recipe_folder() / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) and "\0" not in name:
        path = Path(os.path.expanduser(name))
        return beside / path if beside else path
    raise OptionError(
        f"Unknown recipe {name!r}{suggestion(name, known)}; known are {', '.join(known)}, or give a .yaml file."
    )


def load_recipe(name: str) -> Recipe:
    """Read a recipe by its name or from a YAML file, with all that it includes.

    Raises:
        OptionError: there is no such recipe, or it is not valid; the message says which file, line and key is wrong.

    """
    return Recipe.model_validate(_merged(recipe_path(name), (), {}))


def recipe_files(name: str) -> list[Path]:
    """All files that make a recipe, where they really lie.

    Raises:
        OptionError: as ``load_recipe``.

    """
    read: dict[Path, dict[str, Any]] = {}
    _merged(recipe_path(name), (), read)
    return list(read)


def _merged(path: Path, including: tuple[Path, ...], read: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """The values of a file over those that it includes.

    Args:
        path: the file.
        including: the files on the way to it.
        read: the values of files that are merged already; each is read and merged once, however many include it.

    """
    here = Path(os.path.realpath(path))
    if here in including:
        chain = " -> ".join(one.name for one in (*including[including.index(here) :], here))
        raise OptionError(f"The recipe {path} includes itself ({chain}); take one of these includes out.")
    if here in read:
        return read[here]
    if len(including) >= _DEEPEST:
        raise OptionError(f"The recipe {path} is included through {_DEEPEST} others; write it with fewer steps.")
    source = read_yaml(path)
    file = parse_recipe(source)
    merged: dict[str, Any] = {}
    for place, name in enumerate([file.include] if isinstance(file.include, str) else file.include):
        try:
            included = recipe_path(name, path.parent)
        except OptionError as error:
            raise OptionError(f"{source.where(('include', place))}: {error}") from error
        merged = _over(merged, _merged(included, (*including, here), read))
    read[here] = _over(merged, {key: value for key, value in source.data.items() if key != "include"}, _OWN)
    return read[here]


_DEEPEST = 50
_OWN = ("name", "description", "model_types")
"""What a recipe says about itself; it is not taken over from an included one."""


def _over(below: dict[str, Any], above: dict[str, Any], own: tuple[str, ...] = ()) -> dict[str, Any]:
    """Mappings are merged at every depth; of anything else the later one wins."""
    merged = {key: value for key, value in below.items() if key not in own}
    for key, value in above.items():
        before = merged.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[key] = _over(before, value) if both and before else value
    return merged


def parse_recipe(source: YamlSource) -> RecipeFile:
    """Check the values of one file.

    Raises:
        OptionError: a key is unknown or a value is of the wrong kind.

    """
    if not isinstance(source.data, dict):
        raise OptionError(f"The recipe {source.path} must be a mapping of keys to values.")
    try:
        return RecipeFile.model_validate(source.data)
    except ValidationError as error:
        place, problem = first_problem(error, RecipeFile)
        raise OptionError(f"The recipe {source.where(place)} is not valid: {problem}.") from error


def first_problem(error: ValidationError, model: type[BaseModel]) -> tuple[tuple[str | int, ...], str]:
    """Where pydantic's first complaint is, and what it says; an unknown key gets the nearest known one."""
    first = error.errors()[0]
    place = first["loc"]
    key = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        return place, f"{key} is not a known key{suggestion(str(place[-1]), _keys(model, place[:-1]))}"
    return place, f"{key}: {first['msg'].lower()}"


def _keys(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """The keys that a part of a model knows."""
    for step in place:
        found = model.model_fields[str(step)].annotation if str(step) in model.model_fields else None
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            return []
        model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def suggestion(word: str, known: list[str]) -> str:
    """`` (did you mean ...?)`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def adapt(
    recipe: Recipe,
    probe: str | None,
    max_tokens: int | None,
    select: Sequence[str],
    ignore: Sequence[str],
    limits: Mapping[str, Mapping[str, float]] | None,
) -> Recipe:
    """The recipe with what the command line sets; None and empty leave the recipe's own value."""
    texts = {"texts": probe} if probe is not None else {}
    tokens = {"max_tokens": max_tokens} if max_tokens is not None else {}
    merged = {name: dict(values) for name, values in recipe.limits.items()}
    for name, values in (limits or {}).items():
        merged.setdefault(name, {}).update(values)
    data = recipe.model_dump()
    data["probe"] |= texts | tokens
    data |= {
        "select": list(select) or recipe.select,
        "ignore": list(ignore) or recipe.ignore,
        "limits": merged,
    }
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise OptionError(
            f"This is not possible with the recipe {recipe.name}: {first_problem(error, Recipe)[1]}."
        ) from error
