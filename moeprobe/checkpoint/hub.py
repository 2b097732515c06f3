"""The Hugging Face hub: look at a repository's file names first, fetch only what is asked for."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from moeprobe.environment import check_endpoint
from moeprobe.errors import CheckpointError, NotFoundError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SMALL = (".json", ".txt", ".model", ".tiktoken", ".jinja")


@dataclass(frozen=True)
class Repository:
    """A repository at one revision. ``names`` are its files; ``cached`` is set if the hub was not asked."""

    name: str
    revision: str | None
    names: frozenset[str]
    cached: Path | None

    def fetch(self, names: Collection[str]) -> Path:
        """Fetch these files and return the folder in which they lie (named by the resolved commit).

        Raises:
            NotFoundError: the hub cannot be reached, or asks for a permission.
            CheckpointError: the files cannot be stored.
        """
        if self.cached is not None:
            return self.cached
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=sorted(names)))
        except Exception as error:
            # Errors of the hub are OSErrors too; what is left of those is the local disk.
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, HfHubHTTPError):
                raise CheckpointError(f"Cannot store {self.name}: {error.strerror}.") from error
            raise refusal(self.name, self.revision, error) from error

    def small_files(self, *, code: bool) -> list[str]:
        """Config, index and tokenizer files; with ``code`` also the modules that the checkpoint brings."""
        suffixes = (*_SMALL, ".py") if code else _SMALL
        return [name for name in self.names if "/" not in name and name.endswith(suffixes)]


def is_repository_name(source: str) -> bool:
    """Whether this can be a hub id at all: ``name`` or ``organisation/name``."""
    return _REPOSITORY.fullmatch(source) is not None and ".." not in source and "--" not in source


def look_up(name: str, revision: str | None) -> Repository:
    """List a repository's files; from the local cache if the hub cannot be reached or is switched off.

    Raises:
        NotFoundError: no such repository or revision, no permission, or neither hub nor cache has it.
        OptionError: HF_ENDPOINT is not the address of a hub.
    """
    check_endpoint()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise refusal(name, revision, error) from error
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and _status(error) in (401, 403, 404):
            raise refusal(name, revision, error) from error
        return _from_cache(name, revision, error)
    return Repository(name, revision, frozenset(file.rfilename for file in info.siblings or ()), None)


def _from_cache(name: str, revision: str | None, cause: Exception) -> Repository:
    from huggingface_hub import snapshot_download

    try:
        # Patterns keep the hub's own completeness check to the one file without which nothing is known.
        found = snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=["config.json"])
    except Exception as error:
        raise refusal(name, revision, cause) from error
    folder = Path(found)
    names = frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Repository(name, revision, names, folder)


def refusal(name: str, revision: str | None, error: Exception) -> NotFoundError:
    """What the hub's refusal, or its silence, means for the user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return NotFoundError(
            f"The model {name} is gated; accept its conditions on the hub and log in with `hf auth login`."
        )
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(f"The model {name} has no revision {revision!r} on the hub; give a branch, tag or commit.")
    if isinstance(error, RepositoryNotFoundError) or _status(error) == 404:
        return NotFoundError(
            f"There is no folder {name} here and no model {name} on the hub; "
            f"check the name, or log in with `hf auth login` if it is private."
        )
    if _status(error) in (401, 403):
        return NotFoundError(f"The hub does not let you read {name}; log in with `hf auth login` or set HF_TOKEN.")
    if type(error).__name__ == "OfflineModeIsEnabled":
        why = "the hub is switched off (HF_HUB_OFFLINE)"
    else:
        why = f"the hub cannot be reached ({type(error).__name__})"
    at = f" at {revision}" if revision else ""
    return NotFoundError(
        f"There is no folder {name} here, it is not in the cache{at}, and {why}; "
        f"fetch it first with `hf download {name}` or give a folder."
    )


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
