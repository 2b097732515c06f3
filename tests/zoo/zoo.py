"""The zoo: every case, in the order of docs/families.md."""

from tests.zoo import composite, modalities, odd, text_a, text_b
from tests.zoo.case import Case

ZOO: tuple[Case, ...] = tuple(
    sorted(
        (*text_a.CASES, *text_b.CASES, *odd.CASES, *composite.CASES, *modalities.CASES),
        key=lambda case: case.name,
    )
)
