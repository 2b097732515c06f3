"""What transformers itself declares about its routers. The only file that touches this private interface.

``PreTrainedModel._can_record_outputs["router_logits"]`` holds an ``OutputRecorder`` (or a list of them) naming
the router class and the position of the logits in its output (transformers 5.x).
"""

from typing import Any

from torch import nn


def declared_routers(model: nn.Module) -> tuple[dict[type[nn.Module], int], list[str]]:
    """Router classes that the model, or a model inside it, declares.

    Returns:
        classes: router class -> index of the logits in its output.
        names: class names that are declared by name only (they match any module of that class name).

    """
    classes: dict[type[nn.Module], int] = {}
    names: list[str] = []
    for module in model.modules():
        for recorder in _recorders(module):
            target = getattr(recorder, "target_class", recorder)
            if isinstance(target, type):
                classes[target] = int(getattr(recorder, "index", 0))
            elif getattr(recorder, "class_name", None):
                names.append(str(recorder.class_name))
    return classes, names


def declared_by_class(model: type) -> set[type[nn.Module]]:
    """Router classes that a class of models declares."""
    targets = (getattr(recorder, "target_class", recorder) for recorder in _recorders(model))
    return {target for target in targets if isinstance(target, type)}


def _recorders(model: Any) -> list[Any]:
    recorders = (getattr(model, "_can_record_outputs", None) or {}).get("router_logits")
    return recorders if isinstance(recorders, list) else [] if recorders is None else [recorders]
