"""Names of experts that are stored one by one: nearly all names of a large checkpoint, so one stands for the others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(eq=False)
class StoredExperts:
    """The experts below one ``experts.`` in the files.

    ``numbers`` maps the rest of a name (``gate_proj.weight``) to the numbers of the experts that have such a tensor,
    ``first`` to the whole name at the least of them.
    """

    numbers: dict[str, list[int]] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """One more than the largest number of an expert."""
        return 1 + max(max(numbers) for numbers in self.numbers.values())

    @property
    def last(self) -> str:
        """The whole name of a tensor of the expert with the largest number."""
        rest = max(self.numbers, key=lambda rest: max(self.numbers[rest]))
        return self.names(rest)[self.numbers[rest].index(max(self.numbers[rest]))]

    def names(self, rest: str) -> list[str]:
        """The whole names of a tensor that every expert has, of all experts that have it."""
        head, _, tail = self.first[rest].rpartition(f"{self.numbers[rest][0]}.{rest}")
        return [f"{head}{number}.{rest}{tail}" for number in self.numbers[rest]]

    def gap(self, rest: str) -> int | None:
        """The first expert that lacks a tensor which a later one has; None where there is none."""
        held = set(self.numbers[rest])
        # Not by a range up to the largest: a number in a name may be anything.
        first = next(number for number in range(len(held) + 1) if number not in held)
        return first if first < max(held) else None


def fold_experts(names: Iterable[str]) -> tuple[list[str], dict[str, StoredExperts]]:
    """The names with those of one expert for all of its siblings.

    Args:
        names: of the tensors in the files, each once.

    Returns:
        names: those that are left: every name of a tensor that is no single expert's, and of each group of siblings
            the first.
        experts: name up to ``experts.`` -> the experts stored one by one below it.

    >>> names, experts = fold_experts(["mlp.gate.weight", "mlp.experts.0.up.weight", "mlp.experts.1.up.weight"])
    >>> names, experts["mlp."].count
    (['mlp.gate.weight', 'mlp.experts.0.up.weight'], 2)

    """
    left: list[str] = []
    experts: dict[str, StoredExperts] = {}
    for name in names:
        # Plain string methods: there may be 100,000 names.
        holder, found, below = name.partition("experts.")
        number, _, rest = below.partition(".")
        digits = number.removeprefix("expert_")
        if (
            not found
            or not digits.isdecimal()
            or not digits.isascii()
            or len(digits) > 9
            or (holder and holder[-1] != ".")
        ):
            left.append(name)
            continue
        group = experts.get(holder)
        if group is None:
            group = experts[holder] = StoredExperts()
        numbers = group.numbers.get(rest)
        index = int(digits)
        if numbers is None:
            group.numbers[rest], group.first[rest] = [index], name
        else:
            if index < numbers[0]:
                # The least stays in front; the others need no order.
                numbers[0], index = index, numbers[0]
                group.first[rest] = name
            numbers.append(index)
    left += [name for group in experts.values() for name in group.first.values()]
    return left, experts


def counts(experts: Mapping[str, StoredExperts]) -> dict[str, int]:
    """Name up to ``experts.`` -> number of experts stored below it."""
    return {holder: group.count for holder, group in experts.items()}
