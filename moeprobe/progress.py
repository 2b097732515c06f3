"""Progress bars on stderr, silent where nobody watches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")


class Progress:
    """tqdm bars on stderr; ``shown`` False gives the same interface without output."""

    def __init__(self, shown: bool) -> None:
        self._hidden = not shown

    def over(self, items: Sequence[_Item], title: str, done: int = 0) -> Iterator[_Item]:
        """Iterate with a bar, of which an earlier run has ``done`` a part."""
        total = len(items) + done
        yield from tqdm(items, desc=title, unit="batch", total=total, initial=done, disable=self._hidden, leave=False)

    @contextmanager
    def counting(self, title: str) -> Iterator[Callable[[], None]]:
        """A counter of batches whose end is not known; call it once for each."""
        with tqdm(desc=title, unit="batch", disable=self._hidden, leave=False) as bar:

            def tick() -> None:
                bar.update()

            yield tick
