"""Whether two tokenizers make the same tokens."""

import torch

from moeprobe.probes.batches import Batches


def disagreement(base: Batches, tuned: Batches, base_ids: dict[str, int], tuned_ids: dict[str, int]) -> str | None:
    """How two tokenizers differ, in words; None where they agree.

    Tokens that only one of them knows are no disagreement as long as the texts do not use them: fine-tuning adds
    tokens for a chat.

    Args:
        base, tuned: the same texts through each.
        base_ids, tuned_ids: token -> id.

    """
    other = [token for token, number in base_ids.items() if tuned_ids.get(token, number) != number]
    if other:
        token = min(other, key=lambda token: base_ids[token])
        return (
            f"{len(other):,} tokens have another id, the first is {token!r}: {base_ids[token]} and {tuned_ids[token]}"
        )
    same = len(base) == len(tuned) and all(
        torch.equal(first.input_ids, second.input_ids) for first, second in zip(base, tuned, strict=True)
    )
    return None if same else "they cut the probe texts into different tokens"
