"""Names: how the tensors of a checkpoint are called in transformers' modules.

The hub's checkpoints name their tensors as their authors did; transformers' conversion mapping (5.x) says how each
is called in its own modules. This is the only file that touches that interface. No model is built and no modelling code
imported, so two things are done otherwise than when a model loads: the mapping of a part of a composite model is
applied to all names, and a name that would be renamed although it already is a module's is told by the result.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moeprobe.checkpoint.quantised.naming import plain_name

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, Any]
"""A raw config.json."""

_BARE = re.compile(r"^layers\.\d+\.")
_REPEATED = re.compile(r"\.(\w+)\.\1\.")
_HEAD = re.compile(r"For\w+$")
_BASE, _TEXT = "model", "language_model"
"""Where transformers keeps the model without its head, and in it the language model of a composite one."""


@dataclass(frozen=True, eq=False)
class ModuleTensor:
    """One tensor of the model's modules and where it comes from.

    ``name`` in the modules, ``stored`` in the files. ``converter`` is transformers' conversion of the stored tensor,
    whose result number ``part`` this is, found by its source ``pattern``; None where it is the stored one as it stands.
    """

    name: str
    stored: str
    converter: Any = None
    part: int = 0
    pattern: str | None = None

    def of(self, stored: "Tensor") -> "Tensor":
        """The module's tensor, made of the stored one.

        Raises:
            ValueError: transformers makes it of several tensors, or of this one in a way that needs the model.

        """
        if self.converter is None:
            return stored
        if len(self.converter.source_patterns) > 1:
            raise ValueError("transformers makes it of several stored tensors")
        return put_together([(self, [stored])])


def put_together(parts: "Sequence[tuple[ModuleTensor, list[Tensor]]]") -> "Tensor":
    """The module's tensor that transformers makes of several stored ones.

    Args:
        parts: each stored tensor of one converter, with those of its siblings (one of each expert, in their order).

    Raises:
        ValueError: it is made in a way that needs the model.
        RuntimeError: the shapes do not fit together.

    """
    first = parts[0][0]
    sources, targets = first.converter.source_patterns, first.converter.target_patterns
    made: dict[str, Any] = {part.pattern or sources[0]: tensors for part, tensors in parts}
    try:
        for operation in first.converter.operations:
            made = operation.convert(
                made,
                source_patterns=sources,
                target_patterns=targets,
                full_layer_name=first.name,
                model=None,
                config=None,
                missing_keys=None,
            )
        result: Tensor = made[targets[first.part]]
    except (AttributeError, LookupError, ValueError, TypeError) as error:
        raise ValueError("transformers makes it of the stored tensor in a way that needs the model") from error
    return result


def module_tensors(config: Config, names: Collection[str]) -> list[ModuleTensor]:
    """What the stored tensors are called in the modules; their own names where transformers knows no mapping.

    Args:
        config: raw config.json.
        names: the tensors as the files call them.

    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = list(_transforms(config))
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    found = []
    for name in sorted(names):
        # Codes and scales go where their weight goes; transformers' patterns end at the name of the weight.
        plain, codes = plain_name(name)
        renamed, pattern = rename_source_key(plain, renamings, converters)
        # A mapping that inserts a part of the name, applied to a name that has it already (`mlp.mlp.gate`).
        if _REPEATED.search(renamed) and not _REPEATED.search(name):
            renamed, pattern = plain, None
        # Saved without its head: transformers puts the prefix of the base model before such names.
        renamed = f"{_BASE}.{renamed}" if _BARE.match(renamed) else renamed
        if codes:
            holder = renamed.removesuffix("weight").removesuffix(".")
            found.append(ModuleTensor(f"{holder}.{codes}" if holder else codes, name))
            continue
        converter = by_pattern[pattern] if pattern is not None else None
        targets = converter.target_patterns if converter is not None else [renamed]
        for part, target in enumerate(targets):
            found.append(ModuleTensor(renamed.replace(targets[0], target, 1), name, converter, part))
    return found


def _transforms(config: Config) -> Iterator[Any]:
    """What transformers applies to the names, in its order: of the model, of what is inside it, of old layouts."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    named = config.get("architectures")
    classes = [str(name) for name in named] if isinstance(named, list) else []
    root = next(iter(_mappings([*classes, str(config.get("model_type", ""))])), None)
    yield from root or ()
    if any(isinstance(part, dict) and "model_type" in part for part in config.values()):
        yield from _scoped([_HEAD.sub("Model", name) for name in classes if _HEAD.search(name)], "")
    for key, part in config.items():
        if isinstance(part, dict) and key.endswith("_config") and part.get("model_type"):
            scope = _TEXT if key in ("text_config", "llm_config") else f"{key.removesuffix('_config')}_tower"
            yield from _scoped([str(part["model_type"])], scope)
    yield from get_checkpoint_conversion_mapping("legacy") or ()


def _scoped(kinds: list[str], scope: str) -> Iterator[Any]:
    """The first mapping of these, for names below ``scope`` in the base model."""
    for transform in next(iter(_mappings(kinds)), []):
        transform.scope_prefix, transform.base_model_prefix = scope, _BASE
        yield transform


def _mappings(kinds: list[str]) -> Iterator[list[Any]]:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    for kind in kinds:
        found = get_checkpoint_conversion_mapping(kind)
        if found is not None:
            yield list(found)
