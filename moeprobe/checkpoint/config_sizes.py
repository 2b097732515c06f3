"""Hold the sizes that config.json gives against the tensors in the files, before a model is built of them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from moeprobe.checkpoint.config_fields import (
    DENSE,
    EXPERTS,
    LAYERS,
    MORE_EXPERTS,
    PREDICTORS,
    TOP_K,
    VOCABULARY,
    WIDTH,
    Part,
    is_count,
    label,
    parts,
    shown,
)
from moeprobe.checkpoint.reasons import shape_reason
from moeprobe.errors import IncompleteError

Shapes = Mapping[str, tuple[int, ...] | None]
"""Name of a stored tensor -> its shape, None where only an index was read."""

_UNLIKE = "config.json and the weights belong to different models, or one of them is damaged; get both again"
_STACK = re.compile(r"^((?:[^.]+\.)*?(?:layers|layer|h|blocks|block|resblocks))\.(\d+)\.")
_PREDICTS = re.compile(r"(^|\.)(eh_proj|enorm|hnorm|shared_head|mtp\w*|nextn\w*|embed_tokens|token_layernorm)(\.|$)")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed|shared)\.weight$")
_EXPERT = re.compile(r"\.experts\.(?:expert_)?(\d+)\.")
_NOT_TEXT = re.compile(r"vis|audio|image|speech|sam_|resampler|tower|predictor|timestamp|mtp|diar|sound")


def refuse_other_sizes(
    config: dict[str, Any], shapes: Shapes, source: str, raw: dict[str, Any] | None = None, *, exact: bool = False
) -> None:
    """Do nothing if layers, experts and embedding of the config are those of the files.

    Args:
        config: the config, as it is or with transformers' defaults.
        shapes: all tensors of the files; none known refuses nothing.
        source: folder or hub id, for the message.
        raw: config.json as it is, where ``config`` has defaults.
        exact: whether the embedding must have as many rows as the vocabulary has tokens, as it must for transformers;
            code of a checkpoint may well fill it up.

    Raises:
        IncompleteError: a number differs; the message has the field, both numbers, and where the files show theirs.

    """
    if not shapes:
        return
    stacks = _stacks(shapes)
    for part in parts(config):
        embedding = _embedding(part, shapes, exact)
        for key, fault in (*_layers(part, stacks), *_experts(part, config, shapes), *embedding):
            given = raw is None or _is_said(raw, part.path, key)
            start = "" if given else f"{label(source)} does not say {part.name(key)}, so transformers takes its own: "
            end = f" ({label(source)})" if given else ""
            raise IncompleteError(f"{start}{part.name(key)} is {shown(part.values[key])}, and {fault}{end}.")


def refuse_hidden_experts(config: dict[str, Any], shapes: Shapes, source: str) -> None:
    """Do nothing if the files hold no experts; to be called where the config makes a model without any.

    Raises:
        IncompleteError: they do.

    """
    held = next((name for name in shapes if _EXPERT.search(name) or ".experts." in name), None)
    if held is None:
        return
    fields = [
        f"{part.name(name)} ({shown(part.values[name])})"
        for part in parts(config)
        for name in (*part.matching(EXPERTS), *part.matching(DENSE))
        if part.text
    ]
    raise IncompleteError(
        f"By {label(source)} no layer has experts, and the files hold some ({held}): look at "
        f"{' and '.join(fields[:6]) or 'what it says about experts'}, and at model_type ({config.get('model_type')})."
    )


def _is_said(raw: dict[str, Any], path: tuple[str, ...], key: str) -> bool:
    for name in path:
        below = raw.get(name)
        if not isinstance(below, dict):
            return False
        raw = below
    return key in raw


def _stacks(shapes: Shapes) -> dict[str, int]:
    """Number of layers of every stack of the files, by its path; layers that predict further tokens do not count."""
    indexes: dict[str, set[int]] = defaultdict(set)
    predict: dict[str, set[int]] = defaultdict(set)
    for name in shapes:
        match = _STACK.match(name)
        if match is not None:
            indexes[match[1]].add(int(match[2]))
            if _PREDICTS.search(name[match.end() :]):
                predict[match[1]].add(int(match[2]))
    return {path: max(found - predict[path], default=-1) + 1 for path, found in indexes.items()}


def _layers(part: Part, stacks: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Fields of a part that count other layers than any stack has."""
    said = [name for name in LAYERS if is_count(part.values.get(name))]
    if not stacks or not said:
        return
    text = {path: count for path, count in stacks.items() if not _NOT_TEXT.search(path)} if part.text else stacks
    if not text:
        return
    path, most = max(text.items(), key=lambda item: item[1])
    predictors = sum(_count(part.values[name]) for name in part.matching(PREDICTORS))
    fits = {count - more for count in text.values() for more in (0, predictors)}
    for name in said:
        number = part.values[name]
        # Another part than the language model may have no weights here, so there only what no file holds is refused.
        if number in fits or (not part.text and number <= max(100, 4 * most)):
            continue
        if number > most or len(said) == 1:
            yield name, f"the files hold {most} layers ({path}.0 to {path}.{most - 1}): {_UNLIKE}"


def _experts(part: Part, config: dict[str, Any], shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Numbers of experts that are not those of the files, or more for a token than there are."""
    said, chosen = part.matching(EXPERTS), part.matching(TOP_K)
    if not (said or chosen):
        return
    single = _single(part, shapes)
    fused = {} if single else _fused(part, shapes)
    if not (single or fused):
        return
    held, example = max((single or fused).items())
    fault = f"the files hold {held} experts a layer ({example})"
    if not said:
        for name in chosen if part.text else ():
            if max(_all(part.values[name]), default=0) > held:
                yield name, f"{fault}: {_UNLIKE}"
        return
    more = sum(_count(part.values.get(name)) for name in MORE_EXPERTS)
    fits = {number for name in said for number in (sum(_all(part.values[name])), *_all(part.values[name]))}
    fits |= {number + more for number in fits}
    if "vision_config" in config:  # a layer may hold as many for images, behind those for text
        fits |= {2 * number for number in fits}
    if not fits & set(single or fused) and (part.text or not any(fits)):
        yield said[0], f"{fault}: {shape_reason((held,), (max(_all(part.values[said[0]]), default=0),))}"


def _single(part: Part, shapes: Shapes) -> dict[int, str]:
    """The most experts that a layer holds as tensors of their own, with the name of the last one's."""
    held, example = 0, ""
    for name in shapes:
        match = _EXPERT.search(name) if ".experts." in name else None
        if match is not None and int(match[1]) >= held and not (part.text and _NOT_TEXT.search(name)):
            held, example = int(match[1]) + 1, name
    return {held: example} if held else {}


def _fused(part: Part, shapes: Shapes) -> dict[int, str]:
    """Numbers of experts that are one tensor together, each with the name of one."""
    return {
        shape[0]: name
        for name, shape in shapes.items()
        if part.text and shape is not None and len(shape) == 3 and ".experts." in name and not _NOT_TEXT.search(name)
    }


def _embedding(part: Part, shapes: Shapes, exact: bool) -> Iterator[tuple[str, str]]:
    """Rows and width of the embedding of a language model."""
    if not part.text or VOCABULARY not in part.values:
        return
    found = {
        name: shape
        for name, shape in shapes.items()
        if shape is not None and len(shape) == 2 and _EMBEDDING.search(name) and not _NOT_TEXT.search(name)
        and _STACK.match(name) is None
    }  # fmt: skip
    if not found:
        return
    name, shape = min(found.items(), key=lambda item: len(item[0]))
    rows = _count(part.values[VOCABULARY])
    if rows and rows not in {held[0] for held in found.values()} and (exact or rows > shape[0]):
        yield VOCABULARY, f"{name} has {shape[0]} rows: {_UNLIKE}"
    key = part.first(WIDTH)
    if key is not None and _count(part.values[key]) and part.values[key] not in {held[1] for held in found.values()}:
        yield key, f"{name} is {shape[1]} wide: {_UNLIKE}"


def _all(value: Any) -> list[int]:
    return [number for number in (value if isinstance(value, list) else [value]) if is_count(number)]


def _count(value: Any) -> int:
    return value if is_count(value) else 0
