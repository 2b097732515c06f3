"""The table of a hash layer: what is wrong in rows that a text can reach, and what only looks wrong beside them."""

from typing import Any

from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import listed, number
from moeprobe.findings.weights import HashTable

ALL_ZERO = "the hash table is all zero"
CONSTANT = "the hash table is constant"
OUT_OF_RANGE = "the hash table names experts that do not exist"
REPEATS = "the hash table names an expert twice for one token"
ROWS = "the hash table has not one row per token id"
UNREACHABLE = "the hash table leaves experts out"
SPARE_ONLY = "the hash table names experts in rows that no text reaches only"
SPARE = "the hash table is damaged in rows that no text reaches"

_COPY = "Copy tid2eid from the base checkpoint"


def judge_table(case: Case[Any]) -> None:
    """Judge the integrity of the table; that it is not known is a skip."""
    table = case.evidence.weights.hash_table if case.evidence.weights else None
    if table is None:
        case.skip("the hash table was not read")
        return
    case.weigh()
    _judge_faults(case, table)
    _judge_missing(case, table)
    _judge_harmless(case, table)


def _judge_faults(case: Case[Any], table: HashTable) -> None:
    faults = _faults(case, table)
    if faults:
        (cause, measured, quantity), *_ = faults
        told = "; ".join(f"{what} ({number(count)})" for _, count, what in faults)
        case.find(
            "error",
            f"tid2eid is damaged{_where(table)}: {told}",
            quantity=quantity,
            measured=measured,
            cause=cause,
            remedy=_remedy(case, table),
            experts=table.unreachable if cause == UNREACHABLE else (),
        )
    if table.spare_only and not faults:
        case.find(
            "warning",
            f"tid2eid names {listed(table.spare_only, 'expert')} only in rows that no token id of the tokenizer "
            "reaches, so no text is ever sent there",
            quantity="experts that only rows out of reach name",
            measured=len(table.spare_only),
            cause=SPARE_ONLY,
            remedy=f"Check that the tokenizer belongs to this model. {_COPY} if it does",
            experts=table.spare_only,
        )


def _faults(case: Case[Any], table: HashTable) -> list[tuple[str, int, str]]:
    """Cause, number and name of every fault, the one that explains the others first."""
    router = case.evidence.router
    seen = table.rows if table.reached is None else table.reached
    # Where every expert is chosen, rows can only differ in their order, and a single expert is number 0.
    chooses = router.experts > router.top_k
    if seen > 1 and chooses and (table.all_zero or table.constant):
        name = "all entries are zero, rows" if table.all_zero else "all rows are equal, rows"
        return [(ALL_ZERO if table.all_zero else CONSTANT, seen, name)]
    found = [
        (OUT_OF_RANGE, table.out_of_range, "entries out of range"),
        (REPEATS, table.rows_with_repeats, "rows with a repeated expert"),
        (UNREACHABLE, len(table.unreachable), "experts that no token reaches"),
    ]
    return [fault for fault in found if fault[1]]


def _where(table: HashTable) -> str:
    if table.reached is None:
        return " (which token ids the tokenizer gives is not known, so every row counts)"
    return f" in the {number(table.reached)} rows that token ids of the tokenizer reach"


def _remedy(case: Case[Any], table: HashTable) -> str:
    if not table.tail:
        return _COPY
    return (
        f"All damaged rows are the last {number(table.tail)} that are used: if the vocabulary was extended, give each "
        f"of its new token ids a row of {case.evidence.router.top_k} distinct experts, for instance that of a similar "
        f"token; else copy tid2eid from the base checkpoint"
    )


def _judge_missing(case: Case[Any], table: HashTable) -> None:
    missing = max(0, table.vocabulary - table.rows) if table.missing is None else table.missing
    if not missing:
        return
    whose = "token ids of the embedding" if table.reached is None else "token ids that the tokenizer gives"
    case.find(
        "error",
        f"tid2eid has {number(table.rows)} rows and the embedding {number(table.vocabulary)}: "
        f"{number(missing)} {whose} have no row, and the forward pass of a text with one of them fails "
        "with an index out of range",
        quantity="token ids without a row in the table",
        measured=missing,
        cause=ROWS,
        remedy="If the vocabulary was extended (resize_token_embeddings leaves the table as it is), extend tid2eid "
        f"too: a row of {case.evidence.router.top_k} distinct experts for each new token id, for instance that of a "
        "similar token. If it was not, copy tid2eid from the base checkpoint",
    )


def _judge_harmless(case: Case[Any], table: HashTable) -> None:
    beyond = table.rows - table.vocabulary
    if beyond > 0:
        case.find(
            "info",
            f"tid2eid has {number(table.rows)} rows for {number(table.vocabulary)} token ids; the last "
            f"{number(beyond)} are never looked up, which is harmless unless ids are added to the vocabulary",
            quantity="rows of the table beyond the embedding",
            measured=beyond,
            cause=ROWS,
            remedy="Nothing to do. Look at these rows before the vocabulary is extended to them",
        )
    if beyond < 0 and table.missing == 0:
        case.find(
            "info",
            f"tid2eid has {number(table.rows)} rows and the embedding {number(table.vocabulary)}; the tokenizer gives "
            "none of the ids beyond the table (the embedding is padded), which is harmless until one of them is used",
            quantity="rows of the embedding beyond the table",
            measured=-beyond,
            cause=ROWS,
            remedy="Nothing to do. Extend the table before one of these ids is given to a token",
        )
    if table.spare_faults:
        case.find(
            "info",
            f"{number(table.spare_faults)} rows of tid2eid are damaged (zero, out of range or with a repeated expert), "
            f"all among the {number(table.spare)} that no text reaches: their ids are not in the tokenizer or are "
            "reserved, so no token is routed by them",
            quantity="damaged rows that no text reaches",
            measured=table.spare_faults,
            cause=SPARE,
            remedy="Nothing to do. It matters once one of these ids is used: give it a row of "
            f"{case.evidence.router.top_k} distinct experts first",
        )
