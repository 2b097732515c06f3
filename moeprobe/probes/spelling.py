"""Spelling: a token id as the piece of text that it stands for."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space


def spelled(tokenizer: "PreTrainedTokenizerBase") -> Callable[[int], str]:
    """Writer of token ids: the decoded text, or the tokenizer's own piece for a part of a character."""

    @cache
    def text(token_id: int) -> str:
        piece = tokenizer.convert_ids_to_tokens(token_id)
        decoded = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        if not decoded or "\N{REPLACEMENT CHARACTER}" in decoded:
            return str(piece)
        # Some decoders drop the space at the start of a text.
        lost = isinstance(piece, str) and piece.startswith(_WORD_START) and not decoded.startswith(" ")
        return f" {decoded}" if lost else decoded

    return text
