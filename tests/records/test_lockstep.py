"""Calls that advance together: in order, one at a time, and none left behind."""

import threading
import time

import pytest

from moeprobe.records.lockstep import Ended, Lockstep, Stop


def running() -> int:
    return threading.active_count()


def test_all_pass_a_stop_before_any_comes_to_the_next() -> None:
    seen: list[str] = []
    steps: Lockstep

    def call(name: str) -> None:
        for place in range(3):
            seen.append(f"{name}{place}")
            steps.stop(Stop((place,), "here"), name)
        seen.append(f"{name} ends")

    steps = Lockstep([lambda: call("a"), lambda: call("b")])
    served: list[tuple[int, list[str]]] = []
    before = running()
    steps.run(lambda stop, waiting: served.append((stop.order[0], waiting)))
    assert seen == ["a0", "b0", "a1", "b1", "a2", "b2", "a ends", "b ends"]
    assert served == [(0, ["a", "b"]), (1, ["a", "b"]), (2, ["a", "b"])]
    assert running() == before


def test_who_skips_a_stop_waits_for_those_who_do_not() -> None:
    order: list[str] = []
    steps: Lockstep

    def short() -> None:
        steps.stop(Stop((5,), "late"))
        order.append("short")

    def long() -> None:
        for place in range(5):
            steps.stop(Stop((place,), "early"))
        order.append("long")

    steps = Lockstep([short, long])
    steps.run(lambda *_: None)
    assert order == ["long", "short"]


@pytest.mark.parametrize("raised", [ValueError("in a batch"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_in_one_call_ends_all(raised: BaseException) -> None:
    left: list[int] = []
    steps: Lockstep

    def call(number: int) -> None:
        try:
            steps.stop(Stop((0,), "here"))
            if number == 1:
                raise raised
            steps.stop(Stop((1,), "there"))
        except Ended:
            left.append(number)
            raise

    steps = Lockstep([lambda n=n: call(n) for n in range(4)])
    before = running()
    with pytest.raises(type(raised)):
        steps.run(lambda *_: None)
    assert left == [0, 2, 3]
    assert running() == before


def test_an_error_while_serving_ends_all() -> None:
    steps: Lockstep
    steps = Lockstep([lambda: steps.stop(Stop((0,), "here")) for _ in range(3)])
    before = running()

    def serve(*_: object) -> None:
        raise OSError("no such shard")

    with pytest.raises(OSError, match="no such shard"):
        steps.run(serve)
    assert running() == before


def test_a_model_cannot_swallow_the_end() -> None:
    steps: Lockstep

    def stubborn() -> None:
        try:
            steps.stop(Stop((0,), "here"))
        except Exception:
            time.sleep(60)

    def failing() -> None:
        raise RuntimeError("broken")

    steps = Lockstep([stubborn, failing])
    with pytest.raises(RuntimeError, match="broken"):
        steps.run(lambda *_: None)


def test_outside_of_a_call_nothing_stops() -> None:
    Lockstep([]).stop(Stop((0,), "here"))
