"""Faults that hash-boundary is to find: the table, and the order of the layers."""

import torch

from benchmarks.fault import Fault, hashed
from benchmarks.patient import Wound


def _table(wound: Wound) -> torch.Tensor:
    assert wound.site.table is not None
    return wound.site.table


def _rows(wound: Wound) -> list[int]:
    """A share of the rows below 1, a number of rows from 1 on."""
    total = _table(wound).shape[0]
    count = int(wound.strength) if wound.strength >= 1 else round(total * wound.strength)
    return wound.random.sample(range(total), count)


def _zero(wound: Wound) -> bool:
    _table(wound).zero_()
    return True


def _constant(wound: Wound) -> bool:
    table = _table(wound)
    count = round(table.shape[0] * wound.strength)
    start = wound.random.randrange(table.shape[0] - count + 1)
    table[start : start + count] = table[start].clone()
    return wound.strength == 1


def _out_of_range(wound: Wound) -> bool:
    """Half of the damaged entries one too high, half one too low."""
    table = _table(wound)
    for place, row in enumerate(_rows(wound)):
        table[row, wound.random.randrange(table.shape[1])] = -1 if place % 2 else wound.site.count
    return True


def _repeats(wound: Wound) -> bool:
    table = _table(wound)
    rows = _rows(wound)
    table[rows, 1] = table[rows, 0]
    return True


def _unreachable(wound: Wound) -> bool:
    """One expert is replaced, in every row that names it, by one that the row does not name."""
    table = _table(wound)
    (gone,) = wound.pick()
    for row in (table == gone).any(dim=1).nonzero().flatten().tolist():
        free = sorted(set(range(wound.site.count)) - set(table[row].tolist()))
        table[row, table[row] == gone] = wound.random.choice(free)
    return True


def _permuted(wound: Wound) -> bool:
    table = _table(wound)
    rows = _rows(wound)
    table[rows] = table[wound.random.sample(rows, len(rows))].clone()
    return False


def _late(wound: Wound) -> bool:
    """The blocks of the last hash layer and of the last learned one change places."""
    layers = wound.patient.model.model.layers
    here = max(site.layer or 0 for site in wound.patient.sites if hashed(site))
    there = len(layers) - 1
    layers[here].mlp, layers[there].mlp = layers[there].mlp, layers[here].mlp
    wound.layer = there
    return True


FAULTS = (
    Fault("all-zero", "hash-boundary", r"all zero", "the table all zero", (1,), _zero, hashed, tokens=0),
    Fault(
        "constant-block",
        "hash-boundary",
        r"constant",
        "a block of equal rows, as a share of the table",
        (0.01, 0.1, 0.5, 1),
        _constant,
        hashed,
        tokens=0,
    ),
    Fault(
        "out-of-range",
        "hash-boundary",
        r"do not exist",
        "rows with an id out of range",
        (1, 2, 200),
        _out_of_range,
        hashed,
        tokens=0,
    ),
    Fault("repeats", "hash-boundary", r"twice", "rows that name an expert twice", (1, 0.1), _repeats, hashed, tokens=0),
    Fault(
        "unreachable",
        "hash-boundary",
        r"leaves experts out",
        "one expert in no row",
        (1,),
        _unreachable,
        hashed,
        tokens=0,
    ),
    Fault(
        "rows-permuted",
        "permuted-experts",
        r"",
        "a share of the rows permuted (1: two rows)",
        (2, 0.1, 0.999),
        _permuted,
        hashed,
        tokens=16_384,
        visible=False,
        loss=True,
    ),
    Fault(
        "hash-after-learned",
        "hash-boundary",
        r"comes after a learned",
        "a hash layer behind the learned ones",
        (1,),
        _late,
        hashed,
        tokens=0,
    ),
)
