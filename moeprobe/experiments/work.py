"""Work: how a list of loss tests is done; here one after the other, by others kept on the disk or shared out."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from moeprobe.findings.plain import Plain

Outcome = TypeVar("Outcome", bound=Plain)


class Work(Protocol):
    """Whoever does the tests named ``names`` and gives their outcomes in the same order; None where there is none.

    A test is independent of every other, takes its name, and gives plain numbers of the class ``kind``.
    """

    def __call__(
        self, kind: type[Outcome], names: Sequence[str], test: Callable[[str], Outcome | None]
    ) -> list[Outcome | None]:
        """Do the tests."""


def one_by_one(
    kind: type[Outcome],  # noqa: ARG001  # whoever sends outcomes elsewhere needs it
    names: Sequence[str],
    test: Callable[[str], Outcome | None],
) -> list[Outcome | None]:
    """All tests here and now."""
    return [test(name) for name in names]
