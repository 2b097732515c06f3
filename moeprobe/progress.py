"""Progress bars on stderr, silent where nobody watches."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")


class Progress:
    """tqdm bars on stderr; ``shown`` False gives the same interface without output."""

    def __init__(self, shown: bool) -> None:
        self._hidden = not shown

    def over(
        self,
        items: Iterable[_Item],
        title: str,
        done: int = 0,
        *,
        total: int | None = None,
        unit: str = "batch",
    ) -> Iterator[_Item]:
        """Iterate with a bar, of which an earlier run has ``done`` a part; ``total`` where the items cannot tell it."""
        if total is None and isinstance(items, Sized):
            total = len(items) + done
        yield from tqdm(items, desc=title, total=total, initial=done, unit=unit, disable=self._hidden, leave=False)

    @contextmanager
    def counting(self, title: str) -> Iterator[Callable[[], None]]:
        """A counter of batches whose end is not known; call it once for each."""
        with tqdm(desc=title, unit="batch", disable=self._hidden, leave=False) as bar:

            def tick() -> None:
                bar.update()

            yield tick

    @contextmanager
    def reading(self, total: int, layers: int, layer: int = 0, read: int = 0) -> Iterator[Callable[[int, int], None]]:
        """Layers done and bytes read of ``total``, with the time that is left; call it with both after each layer.

        An earlier run has done ``layer`` layers and has ``read`` so many bytes.
        """
        with tqdm(total=total, initial=read, unit="B", unit_scale=True, disable=self._hidden, leave=False) as bar:
            bar.set_description(f"layer {layer} of {layers}")

            def tick(layer: int, read: int) -> None:
                bar.set_description(f"layer {layer} of {layers}", refresh=False)
                bar.update(min(read, total) - bar.n)

            yield tick
