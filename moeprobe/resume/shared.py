"""Shared: loss tests that are kept on the disk as they finish, and shared out over the processes of a crew."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from moeprobe.experiments.work import Outcome
from moeprobe.parallel.crew import Crew
from moeprobe.resume.bookmark import Bookmark, unreadable


@dataclass(frozen=True)
class SharedWork:
    """A ``Work``: every process does each n-th test that no earlier run has finished, and all get all outcomes."""

    crew: Crew
    bookmark: Bookmark | None = None

    def __call__(
        self, kind: type[Outcome], names: Sequence[str], test: Callable[[str], Outcome | None]
    ) -> list[Outcome | None]:
        """Do this process's share of the tests, and wait for the others'."""
        done: dict[str, str] = {}
        for index in self.crew.mine(len(names)):
            name = f"{kind.__name__} {names[index]}"
            known = self.bookmark.tests.get(name) if self.bookmark else None
            if known is None:
                self.crew.watch()
                outcome = test(names[index])
                known = "null" if outcome is None else outcome.model_dump_json()
                if self.bookmark:
                    self.bookmark.keep_test(name, known)
            done[name] = known
        for part in self.crew.gather(json.dumps(done).encode()):
            done |= json.loads(part)
        found = [done[f"{kind.__name__} {name}"] for name in names]
        try:
            return [None if outcome == "null" else kind.model_validate_json(outcome) for outcome in found]
        except ValidationError as error:
            if self.bookmark is None:
                raise
            raise unreadable(self.bookmark.folder) from error
