"""Token ids that a text can hold: an embedding often has rows for more ids than any text reaches."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from moeprobe.checkpoint.ranges import Files
from moeprobe.errors import MoeprobeError
from moeprobe.json_source import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RESERVED = re.compile(r"^[<\[].*(reserved|unused|place\W?holder|dummy).*[>\]]$", re.IGNORECASE)
"""Names of ids that are kept for later use: <|reserved_special_token_3|>, [unused7], <｜place▁holder▁no▁1｜>."""
_NAMED = ("token_id", "token_ids", "token_index")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
_LARGEST = 1 << 28
"""Bytes of a tokenizer.json that is still read: the largest vocabularies take some 30 MB."""


def reached_ids(tokenizer: "PreTrainedTokenizerBase", config: Any) -> frozenset[int] | None:
    """Token ids that a loaded tokenizer gives for some text, and those that the config names (padding, say).

    None where the tokenizer does not list its vocabulary.
    """
    try:
        vocabulary = tokenizer.get_vocab()
    except (AttributeError, NotImplementedError):
        return None
    own = (getattr(tokenizer, name, None) for name in _SPECIAL)
    return _reached(vocabulary, [*(token for token in own if isinstance(token, int)), *named_ids(config.to_dict())])


def stored_ids(files: Files, config: Mapping[str, Any]) -> frozenset[int] | None:
    """The same from the checkpoint's tokenizer.json, read as plain JSON; None where there is none that can be read.

    Args:
        files: the checkpoint's.
        config: its raw config.json.

    """
    try:
        content, size = files.read("tokenizer.json", 0, _LARGEST)
        told = parse_json(bytes(content), shallow=True) if size == len(content) else None
        return None if told is None else _reached(_vocabulary(told), named_ids(config))
    except (MoeprobeError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def named_ids(config: Mapping[Any, Any]) -> list[int]:
    """Every number, or list of numbers, that a config calls a token id or index."""
    found: list[int] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += named_ids(value)
        elif str(name).endswith(_NAMED):
            found += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)]
    return found


def _vocabulary(told: dict[str, Any]) -> dict[str, int]:
    """Piece -> id, of every kind of model that the tokenizers library writes."""
    model = told["model"]["vocab"]
    pieces = model if isinstance(model, dict) else {str(piece): index for index, (piece, *_) in enumerate(model)}
    added = {str(token["content"]): int(token["id"]) for token in told.get("added_tokens") or ()}
    return pieces | added


def _reached(vocabulary: Mapping[str, int], kept: Iterable[int]) -> frozenset[int] | None:
    ids = {index for piece, index in vocabulary.items() if not _RESERVED.match(piece)}
    return frozenset(ids.union(kept)) if ids else None
