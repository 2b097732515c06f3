"""Save a case as the checkpoint that a user has: config, weights, and a tokenizer of single bytes."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.zoo.case import Case, build

_SPECIAL = ("<pad>", "<s>", "</s>")
"""Their ids are 0, 1 and 2, as in every config of the zoo."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Ids 3 to 258 are the bytes, so any text has tokens in every model of the zoo."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *alphabet))}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "merged_with_next"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def save(case: Case, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the case's seeded model and the tokenizer into ``folder``, and return it."""
    build(case, dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
