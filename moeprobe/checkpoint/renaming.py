"""Renaming: from a name in the files to where its tensor goes, by the rules that transformers loads with."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


class Renaming:
    """The rules for one model.

    Args:
        model: the model.
        rules: transformers' conversion rules, in their order: ``weight_mapping`` of its settings for loading, or what
            ``rules_for`` gives.
        empty: its state dict.

    """

    def __init__(self, model: Any, rules: Sequence[Any], empty: Mapping[str, Tensor]) -> None:
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._prefix, self._empty = model.base_model_prefix, empty
        self.converters = {pattern: rule for rule in self._converters for pattern in rule.source_patterns}

    def __call__(self, name: str) -> tuple[str, str | None, list[str]]:
        """The first tensor that it becomes (a part of), the pattern of its converter, and all such tensors."""
        from transformers.core_model_loading import rename_source_key

        target, pattern = rename_source_key(name, self._renamings, self._converters, self._prefix, self._empty)
        if target not in self._empty and name in self._empty:
            target, pattern = rename_source_key(name, [], [], self._prefix, self._empty)
        if pattern is None:
            return target, None, [target]
        first, *others = self.converters[pattern].target_patterns
        return target, pattern, [target, *(target.replace(first, other) for other in others)]


def rules_for(model: Any) -> list[Any]:
    """The rules by which transformers loads the files of an unquantised checkpoint into ``model``."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    return list(get_model_conversion_mapping(model, add_legacy=True))
