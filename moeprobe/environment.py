"""Environment: the variables of others that moeprobe obeys, checked before anything is done."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from moeprobe.errors import OptionError

LATEST = 253_402_300_799
"""The last second of the year 9999, after which no date can be written."""
_YES = {"1", "ON", "YES", "TRUE"}


def source_date_epoch(environ: Mapping[str, str] = os.environ) -> float | None:
    """The moment in SOURCE_DATE_EPOCH (reproducible-builds.org), in seconds since 1970; None where it is not set.

    Raises:
        OptionError: it is no such moment.

    """
    said = environ.get("SOURCE_DATE_EPOCH", "").strip()
    if not said:
        return None
    if not (said.isascii() and said.isdecimal() and len(said) < 20 and int(said) <= LATEST):
        raise OptionError(
            f"SOURCE_DATE_EPOCH is {said[:80]!r}; it must be a whole number of seconds since 1970, at most {LATEST} "
            "(the year 9999). Mend it or unset it."
        )
    return float(said)


def check_endpoint(environ: Mapping[str, str] = os.environ) -> None:
    """Do nothing if HF_ENDPOINT is the address of a server, not set, or not used since the hub is switched off.

    Raises:
        OptionError: it is something else.

    """
    said = environ.get("HF_ENDPOINT", "")
    if not said or environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        return
    refuse_unparsable_endpoint(environ)
    parts = urlsplit(said)
    sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    if not sound or any(character.isspace() or ord(character) < 32 for character in said):
        raise _no_endpoint(said)


def refuse_unparsable_endpoint(environ: Mapping[str, str] = os.environ) -> None:
    """Do nothing if HF_ENDPOINT can be taken apart at all; else the hub's library fails when it is imported.

    Raises:
        OptionError: it cannot.

    """
    said = environ.get("HF_ENDPOINT", "")
    try:
        _ = urlsplit(said).port
    except ValueError as error:
        raise _no_endpoint(said) from error


def _no_endpoint(said: str) -> OptionError:
    return OptionError(
        f"HF_ENDPOINT is {said[:200]!r}, which is not the address of a hub; write it as https://huggingface.co, or "
        "unset it."
    )
