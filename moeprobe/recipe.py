"""Recipe: what to run, as data. YAML in, unknown keys refused, JSON Schema out."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moeprobe.errors import OptionError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeRecipe(_Part):
    """Which texts, and how many tokens of them.

    ``texts`` is ``builtin``, a text file, a folder, a JSONL file or a Hub data set. Documents are cut at
    ``max_length`` tokens; whole documents are taken in turn from every source until ``max_tokens`` is reached.
    """

    texts: str = "builtin"
    max_tokens: int = Field(default=16_384, ge=1)
    max_length: int = Field(default=512, ge=2)
    batch_tokens: int = Field(default=4_096, ge=2)


class ScaleRecipe(_Part):
    """The loss test of the routed branch's size. ``max_tokens`` 0 leaves it out.

    At most ``max_length`` tokens of a document are read (many short documents give a narrower interval than few
    long ones); ``single_layers`` is the number of layers that are
    tested alone, those first whose size is farthest off the others'. A sound layer costs two forward passes, the
    whole model eight, a wrong size some twenty.
    """

    max_tokens: int = Field(default=8_192, ge=0)
    max_length: int = Field(default=128, ge=2)
    single_layers: int = Field(default=8, ge=0)


class ChoiceRecipe(_Part):
    """The loss test of every layer's choice against random experts. ``max_tokens`` 0 leaves it out.

    It costs ``repetitions`` + 1 forward passes a layer, each over at most ``max_tokens`` tokens, and fewer
    where all passes together would exceed ``total_tokens``: a model with 48 layers reads some 3,600 tokens in
    each pass. At most ``max_length`` tokens of a document are read: many short documents give a narrower
    interval than few long ones.
    """

    max_tokens: int = Field(default=8_192, ge=0)
    max_length: int = Field(default=128, ge=2)
    repetitions: int = Field(default=2, ge=1)
    total_tokens: int = Field(default=524_288, ge=1)


class Recipe(_Part):
    """What one analysis runs.

    ``select`` and ``ignore`` name detectors by name, code or prefix of either. ``limits`` maps a detector's
    name to the limits that it shall use instead of its defaults. ``seed`` drives the noise and the shuffles.
    """

    name: str
    description: str = ""
    probe: ProbeRecipe = ProbeRecipe()
    scale: ScaleRecipe = ScaleRecipe()
    choice: ChoiceRecipe = ChoiceRecipe()
    select: list[str] = []
    ignore: list[str] = []
    limits: dict[str, dict[str, float]] = {}
    seed: int = 0


def recipe_folder() -> Path:
    """The folder of the recipes that come with the package (in a checkout: ``recipes/`` at its top)."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Read a recipe by its name or from a YAML file.

    Raises:
        OptionError: there is no such recipe, or it is not valid; the message says which key is wrong.

    """
    known = recipe_names()
    if name in known:
        path = recipe_folder() / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        hint = suggestion(name, known)
        raise OptionError(f"Unknown recipe {name!r}{hint}; known are {', '.join(known)}, or give a .yaml file.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"The recipe {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    return parse_recipe(data, str(path))


def parse_recipe(data: Any, source: str) -> Recipe:
    """Check a recipe that was read from ``source``.

    Raises:
        OptionError: a key is unknown or a value is of the wrong kind.

    """
    if not isinstance(data, dict):
        raise OptionError(f"The recipe {source} must be a mapping of keys to values.")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = [key for part in (Recipe, ProbeRecipe, ScaleRecipe, ChoiceRecipe) for key in part.model_fields]
        hint = suggestion(str(first["loc"][-1]), known) if first["type"] == "extra_forbidden" else ""
        problem = "is not a known key" if first["type"] == "extra_forbidden" else first["msg"].lower()
        raise OptionError(f"The recipe {source} is not valid: {key} {problem}{hint}.") from error


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
    return parse_recipe(data, recipe.name)
