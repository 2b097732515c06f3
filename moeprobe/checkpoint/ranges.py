"""Ranges: parts of a checkpoint's files, by pread where the file lies here and by HTTP Range where the hub has it.

One interface for both. Whole shards are never read, and every byte and request is counted.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from moeprobe.checkpoint.hub import refusal
from moeprobe.errors import CheckpointError, IncompleteError
from moeprobe.regular_file import refuse_irregular

_ATTEMPTS = 3
"""How often a range is asked for whose transfer breaks off; refused requests are retried by huggingface_hub itself."""


class Files(ABC):
    """The files of a checkpoint by name. ``bytes_read`` and ``requests`` count what reading them cost."""

    workers: int
    """How many ranges are worth asking for at the same time."""
    slack: int
    """Bytes that are cheaper to read than to skip by another request."""
    at_hand: bool
    """Whether the headers of all shards are worth reading: they show damage and the size of the model."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.requests = 0
        self._lock = Lock()

    def _count(self, count: int) -> None:
        with self._lock:
            self.bytes_read += count
            self.requests += 1

    @abstractmethod
    def label(self, name: str) -> str:
        """How messages call the file."""

    @abstractmethod
    def read(self, name: str, start: int, stop: int) -> tuple[bytearray, int]:
        """Bytes [start, stop) of a file, fewer where it ends before, and the size of the whole file.

        Raises:
            IncompleteError: there is no such file.
            CheckpointError: it cannot be read, or the server does not serve parts of files.

        """


class LocalFiles(Files):
    """Files in a folder. The kernel is told not to read ahead: beside a router lie gigabytes of experts."""

    workers = 2
    slack = 4096
    at_hand = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def label(self, name: str) -> str:
        """The path."""
        return str(self._folder / name)

    def read(self, name: str, start: int, stop: int) -> tuple[bytearray, int]:
        """By pread."""
        try:
            refuse_irregular(self._folder / name)
            handle = os.open(self._folder / name, os.O_RDONLY)
        except FileNotFoundError as error:
            raise IncompleteError(f"{self.label(name)} is missing; copy or download it again.") from error
        except OSError as error:
            raise CheckpointError(f"Cannot read {self.label(name)}: {error.strerror}.") from error
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
            size = os.fstat(handle).st_size
            content = bytearray(max(0, min(stop, size) - start))
            view, done = memoryview(content), 0
            while done < len(content):
                count = os.preadv(handle, [view[done:]], start + done)
                if count == 0:
                    raise IncompleteError(f"{self.label(name)} became shorter while it was read; read it again.")
                done += count
        except OSError as error:
            raise CheckpointError(f"Cannot read {self.label(name)}: {error.strerror}.") from error
        finally:
            os.close(handle)
        self._count(len(content))
        return content, size


class HubFiles(Files):
    """Files of a hub repository at one commit; those that the local cache holds are read there.

    Address, token, redirects and retries are huggingface_hub's. Its file system is not used for the transfer itself:
    it takes a whole file into memory where a server ignores the range.
    """

    workers = 8
    slack = 1 << 14
    at_hand = False

    def __init__(self, repository: str, commit: str, cached: Path) -> None:
        super().__init__()
        self._repository, self._commit = repository, commit
        self._cached = cached
        self._here = LocalFiles(cached)

    def label(self, name: str) -> str:
        """Repository and name."""
        return f"{self._repository}/{name}"

    def read(self, name: str, start: int, stop: int) -> tuple[bytearray, int]:
        """By HTTP Range, or from the cache."""
        if (self._cached / name).is_file():
            return self._here.read(name, start, stop)
        if stop <= start:
            return bytearray(), stop
        from huggingface_hub.errors import EntryNotFoundError

        for _ in range(_ATTEMPTS):
            try:
                content, size = self._fetch(name, start, stop)
            except EntryNotFoundError as error:
                raise IncompleteError(
                    f"{self.label(name)} is missing on the hub, though its index names it."
                ) from error
            except CheckpointError:
                raise
            except Exception as error:  # of the hub, or of whatever HTTP library it uses
                raise self._refused(name, error) from error
            if len(content) == min(stop, size) - start:
                return content, size
        raise CheckpointError(
            f"The hub sends fewer bytes of {self.label(name)} than it was asked for; try again later, or download it."
        )

    def _fetch(self, name: str, start: int, stop: int) -> tuple[bytearray, int]:
        """One request; fewer bytes than asked for where the transfer breaks off."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
            http_stream_backoff,
        )

        url = hf_hub_url(self._repository, name, revision=self._commit, endpoint=constants.ENDPOINT)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        content, size = bytearray(), stop
        with http_stream_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            size = self._size(name, response, start, stop)
            chunks = response.iter_bytes()
            # An error of the transfer must not reach the backoff around it, which has handed its answer out already.
            while (chunk := _next(chunks)) is not None:
                content += chunk
                if len(content) > stop - start:
                    raise self._whole(name)
        self._count(len(content))
        return content, size

    def _size(self, name: str, response: Any, start: int, stop: int) -> int:
        """Size of the whole file, if the answer is a part of it."""
        if response.status_code == 206:
            total = str(response.headers.get("Content-Range", "")).rpartition("/")[2]
            if total.isdigit():
                return int(total)
        length = str(response.headers.get("Content-Length", ""))
        # A file that is no longer than the range may be sent whole.
        if response.status_code == 200 and start == 0 and length.isdigit() and int(length) <= stop:
            return int(length)
        raise self._whole(name)

    def _refused(self, name: str, error: Exception) -> CheckpointError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            return refusal(self._repository, self._commit, error)
        why = f"it answers {status}" if status else f"the connection fails ({type(error).__name__})"
        return CheckpointError(
            f"The hub does not serve {self.label(name)} now: {why}, also when asked again; try again later, or "
            f"download the model (`hf download {self._repository}`) and give its folder."
        )

    def _whole(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"The server answers a request for a part of {self.label(name)} with something else (it ignores HTTP "
            f"Range); download the model (`hf download {self._repository}`) and give its folder."
        )


def _next(chunks: Iterator[bytes]) -> bytes | None:
    """The next piece of a transfer, None where it ends or breaks off."""
    try:
        return next(chunks, None)
    except Exception:
        return None
