"""Lockstep: several calls that advance together from stop to stop, one at a time.

Every call runs in a thread of its own, which serves as a coroutine: it runs until it stops, and then waits until all
others have come to the same stop and what they need there has been brought. So a model's forward pass can be held in
the middle without any change to the model.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Stop:
    """Where a call waits. Those that come first are served first: smaller ``order``, then smaller ``name``."""

    order: tuple[int, ...]
    name: str


class Ended(BaseException):
    """Raised inside a call to end it: it is no error, and no ``except Exception`` of a model may catch it."""


class Lockstep:
    """Runs calls together.

    Args:
        calls: what to run; each calls ``stop`` where it has to wait.

    """

    def __init__(self, calls: Sequence[Callable[[], None]]) -> None:
        self._here = threading.local()
        self._threads = [_Call(call, self._here) for call in calls]

    def stop(self, stop: Stop, payload: Any = None) -> None:
        """Wait at ``stop``; called within a call. Elsewhere it does nothing."""
        current: _Call | None = getattr(self._here, "call", None)
        if current is not None:
            current.wait(stop, payload)

    def run(self, serve: Callable[[Stop, list[Any]], None]) -> None:
        """Run all calls to their ends; the first error of any ends all others, and is raised.

        Args:
            serve: called with a stop, and with the payloads of all that wait there, before they go on.

        """
        try:
            for thread in self._threads:
                thread.advance()
            while waiting := [thread for thread in self._threads if thread.at is not None]:
                first = min(thread.at for thread in waiting if thread.at is not None)
                group = [thread for thread in waiting if thread.at == first]
                serve(first, [thread.payload for thread in group])
                for thread in group:
                    thread.advance()
        finally:
            # Nothing may be left waiting: neither after an error of a call, nor of ``serve``, nor after Ctrl-C.
            for thread in self._threads:
                thread.end()


class _Call:
    """One call in its thread; ``at`` is where it waits, None once it has ended."""

    def __init__(self, call: Callable[[], None], here: threading.local) -> None:
        self.at: Stop | None = None
        self.payload: Any = None
        self._call, self._here = call, here
        self._error: BaseException | None = None
        self._ending = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def advance(self) -> None:
        """Run to the next stop, or to the end.

        Raises:
            Exception: what the call has raised.

        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self, at: Stop, payload: Any) -> None:
        """Called in the thread: hand over, and go on when told to."""
        self.at, self.payload = at, payload
        self._back.release()
        self._go.acquire()
        self.at = self.payload = None
        if self._ending:
            raise Ended

    def end(self) -> None:
        """End the thread where it waits (or, after Ctrl-C, where it next comes to a stop)."""
        if self._thread is None or not self._thread.is_alive():
            return
        self._ending = True
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        self._here.call = self
        try:
            if not self._ending:
                self._call()
        except Ended:
            pass
        except BaseException as error:
            self._error = None if self._ending else error
        finally:
            self.at = self.payload = None
            self._back.release()
