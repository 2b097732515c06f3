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

    def over(self, items: Sequence[_Item], title: str) -> Iterator[_Item]:
        """Iterate with a bar."""
        yield from tqdm(items, desc=title, unit="batch", disable=self._hidden, leave=False)

    @contextmanager
    def counting(self, title: str) -> Iterator[Callable[[], None]]:
        """A counter of batches whose end is not known; call it once for each."""
        with tqdm(desc=title, unit="batch", disable=self._hidden, leave=False) as bar:

            def tick() -> None:
                bar.update()

            yield tick

    @contextmanager
    def reading(self, total: int, layers: int) -> Iterator[Callable[[int, int], None]]:
        """Layers done and bytes read of ``total``, with the time that is left; call it with both after each layer."""
        with tqdm(total=total, unit="B", unit_scale=True, disable=self._hidden, leave=False) as bar:
            bar.set_description(f"layer 0 of {layers}")

            def tick(layer: int, read: int) -> None:
                bar.set_description(f"layer {layer} of {layers}")
                bar.update(min(read, total) - bar.n)

            yield tick
