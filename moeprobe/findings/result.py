"""Result: everything that one analysis measured and judged. Every report is a function of it."""

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from moeprobe.errors import OutputError
from moeprobe.findings.baseline import Comparison
from moeprobe.findings.evidence import Evidence
from moeprobe.findings.finding import SEVERITIES, Check, Finding, VerdictName
from moeprobe.findings.plain import Plain
from moeprobe.json_source import JsonError, parse_json
from moeprobe.recipe import FailOn
from moeprobe.regular_file import read_regular

SCHEMA_VERSION: Literal[1] = 1
_PARTIAL = ".moeprobe-"  # not the name of the file, which may be as long as a name can be


class Model(Plain):
    """Where the checkpoint came from. ``revision`` is the resolved commit of a hub checkpoint.

    ``parameters`` and ``bytes`` are None where not every header was read: the routers alone, over the network.
    """

    source: str
    name: str
    revision: str | None
    model_type: str
    architecture: str
    dtype: str
    parameters: int | None
    router_parameters: int
    files: int
    bytes: int | None


NEEDS_FORWARD = "everything that needs a forward pass"
"""What is left out where none went through."""


class Unchecked(Plain):
    """Something that was not checked, and why.

    ``blocking``: it was asked for and could not be had; where nothing was found either, the answer is not known (exit
    code 2).
    """

    what: str
    why: str
    blocking: bool = False


class Setting(Plain):
    """One effective setting, and where it came from.

    ``origin`` is ``command line``, the name of the policy file, ``recipe NAME`` or ``default``. ``value`` is None
    where nothing is set.
    """

    name: str
    value: str | int | float | list[str] | None
    origin: str


class Environment(Plain):
    """What ran: versions, device, command and the moment (UTC, ISO 8601).

    ``processes`` made the result together. An analysis that was interrupted has the moment of its first start, and the
    seconds of all its runs.
    ``streamed`` is what was in memory at a time, None where the whole model was.
    """

    moeprobe: str
    python: str
    torch: str
    transformers: str
    platform: str
    device: str
    experts_implementation: str | None
    streamed: Literal["layer", "expert"] | None = None
    command: str
    started: str
    seconds: float
    processes: int = 1


class Result(Plain):
    """One analysis. ``checks`` has one entry per detector and router, ``findings`` are sorted worst first.

    ``settings`` say what the command line, the policy file and the recipe came to; an analysis from Python has
    none, its recipe is all that it was given. ``baseline`` is how the findings stand to an earlier result.
    ``weights_only``: nothing but the weights of the routers was to be read.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: Model
    evidence: Evidence
    checks: list[Check]
    findings: list[Finding]
    not_checked: list[Unchecked]
    recipe: dict[str, Any]
    limits: dict[str, dict[str, float]]
    environment: Environment
    settings: list[Setting] = []
    baseline: Comparison | None = None
    weights_only: bool = False

    @property
    def worst(self) -> str | None:
        """The worst severity among the findings, None where there is none."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), None)

    @property
    def problems(self) -> list[Finding]:
        """Findings that need eyes: errors and warnings."""
        return [finding for finding in self.findings if finding.severity != "info"]

    @property
    def fail_on(self) -> FailOn:
        """The least severity that fails a check."""
        said = {setting.name: setting.value for setting in self.settings}
        value = said.get("fail-on", self.recipe.get("fail_on"))
        return "warning" if value == "warning" else "error"

    @property
    def forward_failure(self) -> str | None:
        """Why the model's forward pass failed; None where it went through, or was not asked for."""
        if self.weights_only:
            return None
        return next((left_out.why for left_out in self.not_checked if left_out.what == NEEDS_FORWARD), None)

    def count(self, verdict: VerdictName) -> int:
        """Number of checks with this verdict."""
        return Counter(check.verdict for check in self.checks)[verdict]

    @property
    def weighed(self) -> int:
        """Number of skipped checks that answered as far as the weights tell, where no more was asked for."""
        return sum(check.weighed and check.verdict == "skipped" for check in self.checks) if self.weights_only else 0

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written.

        """
        return write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """Read a saved result.

        Raises:
            OutputError: there is no such file, or it does not hold a result of this version.

        """
        try:
            data = parse_json(read_regular(path), byte_order_mark=True)
        except OSError as error:
            raise OutputError(f"Cannot read {path}: {error.strerror}. Give the result.json of an analysis.") from error
        except JsonError as error:
            raise _no_result(path, f"{error}, or it was cut off while it was written") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version is None:
            raise _no_result(path, "it is some other JSON file")
        if version != SCHEMA_VERSION:
            raise _no_result(path, f"it has schema version {version!r}, and this moeprobe reads {SCHEMA_VERSION}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"])) or "something"
            raise _no_result(path, f"{place} is missing or of the wrong kind") from error


def load_baseline(given: "str | os.PathLike[str] | Result | None") -> Result | None:
    """Read the result that findings are held against: a file, the folder of an analysis, or a Result as it is.

    Raises:
        OutputError: it cannot be read, or is no result of this version.

    """
    if given is None or isinstance(given, Result):
        return given
    path = Path(os.path.expanduser(given))
    return Result.load(path / "result.json" if path.is_dir() else path)


def _no_result(path: str | os.PathLike[str], why: str) -> OutputError:
    return OutputError(
        f"{path} does not hold a moeprobe result that can be read: {why}; make it again with `moeprobe analyze`."
    )


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a file through a temporary one beside it, so that a full disk or Ctrl-C leaves no half file.

    Raises:
        OutputError: the file cannot be written.

    """
    target = Path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=target.parent, prefix=_PARTIAL, delete=False
        ) as handle:
            temporary = Path(handle.name)
            handle.write(text)
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(
            f"Cannot write {target}: {error.strerror or error}. Choose another folder, or make room."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target
