"""Known: what a recording has learned about the routers; it can be saved, put back, and merged with another's.

Facts are read on the first batch that reaches a router, and a router that once did not verify stays so. Beside each
stands the batch in which it was learned: recordings of different batches of one probe then merge into what one
recording of all of them would know.
"""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from moeprobe.findings.plain import Plain
from moeprobe.findings.router import Router
from moeprobe.records.store import gate_tensors, saved_gate
from moeprobe.routers.find import Site
from moeprobe.routers.gate import Gate
from moeprobe.routers.tensors import own_tensors


class Habit(Plain):
    """What the first pass through a site has shown about every later one (see ``Capture``)."""

    probabilities: bool | None = None
    norm_path: str | None = None


class Fact(Plain):
    """A router's facts, the batch in which it was read, and the one in which ``verified`` last changed."""

    router: Router
    read: int
    changed: int


class Reason(Plain):
    """Why a router could not be recorded, and in which batch that was seen.

    ``unless_read``: it counts only if no batch up to that one has reached the router.
    """

    why: str
    batch: int
    unless_read: bool = False


class Facts(Plain):
    """All of ``Known`` but the tensors, by router path; ``relatives`` by class name of the router."""

    gates: dict[str, Fact] = {}
    relatives: dict[str, str] = {}
    unread: dict[str, Reason] = {}
    habits: dict[str, Habit] = {}


class Known:
    """Gates that were read, routers that could not be, and the batch in which each was learned."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.habits: dict[str, Habit] = {}
        self._learned: dict[str, tuple[int, int]] = {}
        self._relatives: dict[str, str] = {}
        self._unread: dict[str, Reason] = {}

    @property
    def unread(self) -> dict[str, str]:
        """Why each of the routers that could not be recorded was not, by path."""
        return {path: reason.why for path, reason in self._unread.items()}

    def keep(self, gate: Gate, batch: int) -> None:
        """Keep a gate that was read, or whose facts changed, in this batch."""
        path = gate.router.path
        read, _ = self._learned.get(path, (batch, batch))
        self.gates[path], self._learned[path] = gate, (read, batch)

    def relative(self, module: str) -> Gate | None:
        """The first gate of this class whose rule was explained by its own numbers."""
        path = self._relatives.get(module)
        return None if path is None else self.gates[path]

    def keep_relative(self, gate: Gate) -> None:
        """Let later gates of the same class take this one's rule."""
        self._relatives.setdefault(gate.router.module, gate.router.path)

    def refuse(self, path: str, why: str, batch: int) -> None:
        """Keep why a router could not be recorded in this batch."""
        self._unread[path] = Reason(why=why, batch=batch)

    def miss(self, path: str, why: str, batch: int) -> None:
        """Keep that this batch did not reach a router, unless more is known of it."""
        if path not in self.gates:
            self._unread.setdefault(path, Reason(why=why, batch=batch, unless_read=True))

    def facts(self) -> Facts:
        """Everything but the tensors."""
        gates = {
            path: Fact(router=gate.router, read=self._learned[path][0], changed=self._learned[path][1])
            for path, gate in self.gates.items()
        }
        return Facts(gates=gates, relatives=self._relatives, unread=self._unread, habits=self.habits)

    def tensors(self, routers: Collection[str] | None = None) -> dict[str, Tensor]:
        """The gates' tensors (of the routers at these paths) by ``<router path>/<field>``, on the CPU."""
        return gate_tensors({path: gate for path, gate in self.gates.items() if routers is None or path in routers})

    def restore(self, facts: Facts, tensors: Mapping[str, Tensor], sites: Iterable[Site]) -> None:
        """Put back what ``facts()`` and ``tensors()`` gave, the tensors where each router stands."""
        by_path = {site.path: site for site in sites}
        self.gates = {path: _placed(fact.router, tensors, by_path[path]) for path, fact in facts.gates.items()}
        self._learned = {path: (fact.read, fact.changed) for path, fact in facts.gates.items()}
        self._relatives, self._unread, self.habits = dict(facts.relatives), dict(facts.unread), dict(facts.habits)

    def merge(self, other: "Known") -> None:
        """Take in what a recording of other batches of the same probe knows.

        Raises:
            ValueError: both have read a router, on different batches and with different facts.

        """
        for path, theirs in other.gates.items():
            mine = self.gates.get(path)
            if mine is None:
                self.gates[path], self._learned[path] = theirs, other._learned[path]
                continue
            one, two = self._learned[path], other._learned[path]
            if one[0] != two[0] and _lasting(mine.router) != _lasting(theirs.router):
                raise ValueError(path)
            # The batch that first failed to verify gives the reason.
            failed = [entry for entry in ((one, mine), (two, theirs)) if not entry[1].router.verified]
            if failed:
                changed, gate = min(failed, key=lambda entry: entry[0][1])
                self.gates[path] = mine.with_router(gate.router)
                self._learned[path] = (min(one[0], two[0]), changed[1])
        for path, reason in other._unread.items():
            before = self._unread.get(path)
            if before is None or (reason.unless_read, -reason.batch) < (before.unless_read, -before.batch):
                self._unread[path] = reason
        for path, reason in list(self._unread.items()):
            if reason.unless_read and path in self._learned and self._learned[path][0] < reason.batch:
                del self._unread[path]


def _lasting(router: Router) -> Router:
    """The facts that do not change from batch to batch."""
    return router.model_copy(update={"verified": True, "reason": "", "misdispatched": False})


def _placed(router: Router, tensors: Mapping[str, Tensor], site: Site) -> Gate:
    """A saved gate, its tensors on the device of the router's own."""
    # A router on the meta device is one of a layer that is not in memory: the gate is all that there is of it.
    device = next((tensor.device for _, tensor in own_tensors(site.router) if not tensor.is_meta), None)
    return saved_gate(router, {key: value if device is None else value.to(device) for key, value in tensors.items()})
