"""The facts of a hash table are counted where a text can reach it; what lies beside that is counted apart."""

import pytest
import torch

from moeprobe.findings.weights import HashTable
from moeprobe.routers.table import TokenIds, table_facts

EXPERTS, K, ROWS = 8, 2, 64


def table() -> torch.Tensor:
    return torch.rand(ROWS, EXPERTS, generator=torch.Generator().manual_seed(0)).argsort(dim=-1)[:, :K]


def ids(*reached: int) -> TokenIds:
    return lambda: frozenset(reached)


def unknown() -> None:
    return None


def never() -> None:
    raise AssertionError("a sound table asks for no tokenizer")


def test_a_sound_table_needs_no_tokenizer() -> None:
    facts = table_facts(table(), EXPERTS, ROWS, never)
    assert facts.busiest is not None
    assert facts.model_copy(update={"busiest": None}) == HashTable(
        rows=ROWS, vocabulary=ROWS, out_of_range=0, rows_with_repeats=0, constant=False, all_zero=False,
        unreachable=[], missing=0,
    )  # fmt: skip
    assert table_facts(table(), EXPERTS, ROWS - 4, never).missing == 0
    assert table_facts(table(), EXPERTS, None, never).vocabulary == ROWS


@pytest.mark.parametrize("fault", [0, 99, -1])
def test_damage_that_no_text_reaches_is_counted_apart(fault: int) -> None:
    damaged = table()
    damaged[60:] = fault
    facts = table_facts(damaged, EXPERTS, ROWS, ids(*range(60)))
    assert (facts.out_of_range, facts.rows_with_repeats, facts.reached) == (0, 0, 60)
    assert (facts.spare, facts.spare_faults, facts.tail) == (4, 4, 0)
    one_reached = table_facts(damaged, EXPERTS, ROWS, ids(*range(61)))
    assert (one_reached.rows_with_repeats, one_reached.spare_faults, one_reached.tail) == (1, 3, 1)
    assert one_reached.out_of_range == (0 if fault == 0 else K)
    everything = table_facts(damaged, EXPERTS, ROWS, unknown)
    assert (everything.rows_with_repeats, everything.reached, everything.spare_faults) == (4, None, 0)


def test_a_table_that_is_zero_wherever_it_is_used() -> None:
    damaged = table()
    damaged[:30] = 0
    facts = table_facts(damaged, EXPERTS, ROWS, ids(*range(30)))
    assert facts.all_zero
    assert facts.constant
    assert facts.unreachable == []
    assert facts.spare_only == list(range(1, EXPERTS))


def test_a_vocabulary_that_was_resized() -> None:
    assert table_facts(table(), EXPERTS, ROWS + 8, unknown).missing == 8
    assert table_facts(table(), EXPERTS, ROWS + 8, ids(*range(ROWS))).missing == 0
    assert table_facts(table(), EXPERTS, ROWS + 8, ids(*range(ROWS + 3))).missing == 3
    extended = torch.cat([table(), torch.zeros(8, K, dtype=torch.long)])
    assert table_facts(extended, EXPERTS, ROWS + 8, ids(*range(ROWS + 8))).tail == 8


def test_a_tokenizer_of_something_else_excuses_nothing() -> None:
    damaged = table()
    damaged[5] = 0
    assert table_facts(damaged, EXPERTS, ROWS, ids(1000)).rows_with_repeats == 1
