"""Crew: the processes that make one result, and what they tell each other.

With ``data`` every process holds the whole model and reads its own batches; whole ones, so that a batch does not
depend on the number of processes. With ``tensor`` and ``expert`` the model is spread over the processes: all read every
batch together, each sees every token, and the tokens are counted once.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from moeprobe.errors import MoeprobeError, ParallelError
from moeprobe.parallel import launch
from moeprobe.parallel.launch import Kind

_FAILED = "moeprobe/failed"
_MEETING = timedelta(minutes=10)
"""How long the first process waits for the last to start."""
_PATIENCE = timedelta(days=7)
"""One process may test for hours while the others wait for its numbers; who fails says so, or its end is noticed."""


class Crew:
    """The process that runs, among ``size``; alone unless ``join`` found others."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None, store: Any = None, owned: bool = False) -> None:
        self.rank, self.size = rank, size
        self.alike = False
        """Whether every process sees every token, because the model is spread over them."""
        self._group, self._store, self._owned = group, store, owned

    @classmethod
    def join(cls, kind: Kind = "data") -> Self:
        """Meet the processes that a launcher has started.

        Raises:
            ParallelError: they cannot reach each other.

        """
        if dist.is_available() and dist.is_initialized():
            group = dist.new_group(backend="gloo", timeout=_PATIENCE)
            return cls(dist.get_rank(), dist.get_world_size(), group)
        if launch.size() == 1:
            return cls()
        backend = "cpu:gloo,cuda:nccl" if kind != "data" and torch.cuda.is_available() else "gloo"
        try:
            store, rank, size = next(iter(rendezvous("env://", timeout=_MEETING)))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        except (RuntimeError, ValueError, OSError) as error:
            raise ParallelError(
                f"The {launch.size()} processes cannot reach each other ({' '.join(str(error).split())[:200]}); "
                "start them with torchrun."
            ) from error
        group = dist.new_group(backend="gloo", timeout=_PATIENCE) if backend != "gloo" else dist.group.WORLD
        return cls(rank, size, group, PrefixStore("moeprobe", store), owned=True)

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def shares(self) -> int:
        """How many processes share out the batches."""
        return 1 if self.alike else self.size

    def mine(self, count: int) -> range:
        """Which of ``count`` pieces of work this process does."""
        return range(count) if self.alike else range(self.rank, count, self.size)

    def meet(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            with self._noticing():
                dist.barrier(self._group)

    def agree(self, *numbers: int) -> None:
        """Do nothing if all processes that read together stand at the same place.

        Raises:
            ParallelError: they do not.

        """
        if self.alike and self.size > 1:
            low, high = torch.tensor(numbers), torch.tensor(numbers)
            with self._noticing():
                dist.all_reduce(low, dist.ReduceOp.MIN, group=self._group)
                dist.all_reduce(high, dist.ReduceOp.MAX, group=self._group)
            if not torch.equal(low, high):
                raise ParallelError(
                    "The processes do not see the same kept progress; keep it on a disk that all of them share, or "
                    "begin anew with --restart."
                )

    def gather(self, data: bytes) -> Iterator[bytes]:
        """What every process has to say, in their order; only this one's where all are alike."""
        if self.shares == 1:
            yield data
            return
        with self._noticing():
            lengths = torch.zeros(self.size, dtype=torch.int64)
            lengths[self.rank] = len(data)
            dist.all_reduce(lengths, group=self._group)
        for rank, length in enumerate(lengths.tolist()):
            part = torch.frombuffer(bytearray(data) if rank == self.rank else bytearray(length), dtype=torch.uint8)
            with self._noticing():
                dist.broadcast(part, src=rank, group=self._group)
            yield part.numpy().tobytes()

    def watch(self) -> None:
        """Do nothing unless another process has failed.

        Raises:
            ParallelError: one has; the message is its own.

        """
        if self._store is not None:
            with self._noticing():
                failed = self._store.check([_FAILED])
            if failed:
                raise ParallelError(self._store.get(_FAILED).decode())

    @contextmanager
    def together(self) -> Iterator[Self]:
        """While the block runs, the failure of one process ends all; afterwards the crew is dissolved.

        Raises:
            MoeprobeError: this process or another has failed.

        """
        try:
            yield self
        except ParallelError:
            raise
        except BaseException as error:
            if self.size > 1:
                told = str(error) if isinstance(error, MoeprobeError) else f"{type(error).__name__}: {error}"
                message = f"Process {self.rank} of {self.size} failed: {told}"
                if self._store is not None:
                    with suppress(RuntimeError, OSError):
                        self._store.set(_FAILED, message)
                if isinstance(error, MoeprobeError):
                    raise type(error)(message) from error
            raise
        finally:
            if self._owned and dist.is_initialized():
                dist.destroy_process_group()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Turn the end of a connection into words."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            with suppress(RuntimeError, OSError):
                if self._store is not None and self._store.check([_FAILED]):
                    raise ParallelError(self._store.get(_FAILED).decode()) from error
            raise ParallelError(
                f"Another of the {self.size} processes has ended before its time; see its own message."
            ) from error
