"""Answerable: whether these texts can answer a question at all, and what is missing where they cannot."""

from collections.abc import Mapping

from torch import Tensor, bincount

DOCUMENTS = 12
"""Documents below which labels cannot be dealt in enough ways to know what chance does."""
OF_A_LABEL = 3
"""Documents that a label needs to be more than the peculiarity of one text."""
TOKENS = 1_000
IN_A_RANGE = 128


def too_small(lengths: Tensor) -> str | None:
    """Why there are too few documents or tokens, None where there are enough.

    Args:
        lengths: [documents] counted tokens.

    """
    documents, tokens = lengths.numel(), int(lengths.sum())
    if documents < DOCUMENTS:
        read = "one document was" if documents == 1 else f"{documents} documents were"
        return f"only {read} read; at least {DOCUMENTS} are needed"
    if tokens < TOKENS:
        return f"only {tokens} tokens were read; at least {TOKENS:,} are needed"
    return None


def too_few_labels(counted: Mapping[str, int], question: str) -> str | None:
    """Why the labels cannot answer, None where they can.

    Args:
        counted: documents by label.
        question: source, language or task.

    """
    labelled = sum(counted.values())
    need = f"at least {DOCUMENTS} documents with one, and {OF_A_LABEL} of each of two {question}s, are needed"
    if not counted:
        return f"no document says its {question}; {need}"
    if len(counted) == 1:
        return f"all {labelled} labelled documents have the same {question} ({next(iter(counted))}); {need}"
    if labelled < DOCUMENTS or sorted(counted.values())[-2] < OF_A_LABEL:
        return f"only {labelled} documents say their {question}, of {len(counted)} kinds; {need}"
    return None


def too_rare(counted: Tensor, occurrences: int) -> str | None:
    """Why token ids cannot answer, None where at least two of them are frequent enough.

    Args:
        counted: [ids] occurrences, largest first.
        occurrences: how often an id must occur.

    """
    if counted.numel() < 2:
        return "all tokens are the same; at least two token ids are needed"
    second = int(counted[1])
    if second >= occurrences:
        return None
    needed = -(-int(counted.sum()) * occurrences // second)
    return (
        f"no two token ids occur {occurrences} times in {int(counted.sum()):,} tokens; about {needed:,} tokens of such "
        "text are needed"
    )


def too_short(ranges: Tensor, lengths: Tensor) -> str | None:
    """Why positions cannot answer, None where at least two ranges of them hold enough tokens.

    Args:
        ranges: [tokens] range of each position.
        lengths: [documents] counted tokens.

    """
    full = int((bincount(ranges) >= IN_A_RANGE).sum())
    if full >= 2:
        return None
    return (
        f"the texts are at most {int(lengths.max())} tokens long, so that only {full} of the ranges of positions hold "
        f"{IN_A_RANGE} tokens and two are needed; longer or more texts are needed"
    )
