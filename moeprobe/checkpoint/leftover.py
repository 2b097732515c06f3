"""Leftovers: codes of a quantised checkpoint that nothing would make numbers of, so that they would run as weights.

transformers passes over tensors that the model has no place for, and casts codes to the dtype of the weight that they
stand for: without this, a model runs and means nothing. What the model has a place for is no leftover, whatever it is
called.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.quantised.declared import quantisation_of
from moeprobe.checkpoint.quantised.known import INSTEAD
from moeprobe.checkpoint.quantised.naming import wholes
from moeprobe.checkpoint.renaming import Renaming
from moeprobe.errors import CheckpointError

Place = Callable[[str], Tensor | None]
_CODES = {"U8", "I8", "U16", "I16", "U32", "I32", "F4", "F6_E2M3", "F6_E3M2"}
_FP8 = {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
_MEMORY = ("_was_used", "_active")
"""What a rule of transformers keeps of the names that it has seen."""


@contextmanager
def refusing_codes(checkpoint: Checkpoint) -> Iterator[None]:
    """Within this block transformers reads no weights of a model before ``refuse_codes`` has seen their names.

    Raises:
        CheckpointError: codes would be run as weights.

    """
    import transformers.modeling_utils as code

    whole = code.convert_and_load_state_dict_in_model

    def looked_at(model: Any, state_dict: Any, load_config: Any, *rest: Any, **more: Any) -> Any:
        refuse_codes(checkpoint, model, state_dict, load_config)
        return whole(model, state_dict, load_config, *rest, **more)

    code.convert_and_load_state_dict_in_model = looked_at
    try:
        yield
    finally:
        code.convert_and_load_state_dict_in_model = whole


def refuse_codes(checkpoint: Checkpoint, model: Any, stored: Mapping[str, Any], load_config: Any) -> None:
    """Do nothing if every number that will be in the model is what the checkpoint means by it.

    Args:
        checkpoint: for what is raised.
        model: on the meta device, with the modules that a quantiser has put into it.
        stored: the tensors of the files by name, or what stands for them (``get_dtype``).
        load_config: transformers' settings for loading.

    Raises:
        CheckpointError: codes would be run as weights.

    """
    empty = model.state_dict()
    rename = Renaming(model, load_config.weight_mapping or [], empty)

    def place(name: str) -> Tensor | None:
        """What the tensor becomes, or becomes a part of."""
        return next((empty[target] for target in rename(name)[2] if target in empty), None)

    find = _unscaled if load_config.hf_quantizer is not None else _unread
    with _as_before(load_config.weight_mapping or []):
        found = find(stored, place)
    if found:
        raise CheckpointError(
            f"In {checkpoint.source}, {found}, and {_why(checkpoint, load_config)}: codes would be run as weights; "
            f"{INSTEAD}."
        )


@contextmanager
def _as_before(rules: Iterable[Any]) -> Iterator[None]:
    """Within this block transformers' rules remember nothing of the names that they were asked about."""
    states = [(rule, name, getattr(rule, name)) for rule in rules for name in _MEMORY if hasattr(rule, name)]
    try:
        yield
    finally:
        for rule, name, state in states:
            setattr(rule, name, state)


def _unread(stored: Mapping[str, Any], place: Place) -> str:
    """The first tensor of codes where no quantiser is at work, empty where there is none."""
    for name in sorted(stored):
        target = place(name)
        if target is None:
            if any(place(weight) is not None for weight, _ in wholes(name, inputs=False)):
                return f"{name} belongs to codes"
        elif target.is_floating_point() and (dtype := _dtype(stored[name])) in _CODES | _FP8:
            return f"{name} is stored as {dtype}"
    return ""


def _unscaled(stored: Mapping[str, Any], place: Place) -> str:
    """The first fp8 weight that the quantiser leaves as it is, or that has no scale; empty where there is none."""
    scaled: dict[str, list[str]] = {}
    for name in stored:
        for weight, _ in wholes(name, inputs=False):
            scaled.setdefault(weight, []).append(name)
    for name in sorted(stored):
        if _dtype(stored[name]) not in _FP8:
            continue
        target = place(name)
        if target is None or not target.is_floating_point() or target.element_size() == 1:
            continue
        scales = scaled.get(name, [])
        if not scales:
            return f"{name} is stored as {_dtype(stored[name])} without a scale"
        if all(place(scale) is None for scale in scales):
            return f"{scales[0]} belongs to codes that the quantiser passes over"
    return ""


def _dtype(tensor: Any) -> str:
    said = tensor.get_dtype() if hasattr(tensor, "get_dtype") else ""
    return str(said)


def _why(checkpoint: Checkpoint, load_config: Any) -> str:
    said = quantisation_of(checkpoint.config).get("quant_method")
    if load_config.hf_quantizer is not None:
        return f"the quantiser of transformers ({said}) applies none of it to that tensor"
    if (checkpoint.folder / "hf_quant_config.json").is_file():
        return "hf_quant_config.json (ModelOpt) is nothing that transformers reads"
    return "config.json declares no quantisation that transformers applies" if not said else f"it is {said}"
