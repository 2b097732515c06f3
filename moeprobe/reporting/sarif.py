"""SARIF 2.1.0, for code scanning: a result is a finding, a rule is a detector.

    {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "moeprobe", "rules": [{"id": "MP401", ...}]}},
      "results": [{"ruleId": "MP401", "level": "error", "message": {"text": "Layer 4: ..."}, ...}]}]}

A router is no place in a file, and GitHub refuses results without one; so the physical location is the recipe or the
policy file that the check ran by, and the logical location is the router. Fingerprints hold no numbers, so that an
alert stays the same alert while its numbers move.
"""

import json
import math
import re
import shlex
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from moeprobe.detectors.registry import DETECTORS, documentation
from moeprobe.errors import EXIT_NOT_CHECKED
from moeprobe.findings.finding import Finding
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.standing import facts
from moeprobe.reporting.text import plain

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_POLICY = "moeprobe.toml"
_LINK = re.compile(r"\[(?=[^\[\]]*\]\()")

Json = dict[str, Any]


def render(result: Result, judged: Verdict | None = None) -> str:
    """Write SARIF; with a verdict against a baseline each result says whether it is new, unchanged or absent."""
    rules = _rules(result, judged)
    places = {rule["id"]: place for place, rule in enumerate(rules)}
    anchor = _anchor(result)
    found = [(finding, _state(finding, judged)) for finding in result.findings]
    found += [(finding, "absent") for finding in (judged.fixed or () if judged else ())]
    driver = {"name": "moeprobe", "version": plain(result.environment.moeprobe), "rules": rules}
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"moeprobe/{plain(result.model.name)}/"},
        "invocations": [_invocation(result, judged)],
        "results": [_result(finding, state, places, anchor, result) for finding, state in found],
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _rules(result: Result, judged: Verdict | None) -> list[Json]:
    rules = []
    for detector in DETECTORS:
        summary, _, body = documentation(detector).partition("\n")
        short = summary.partition(": ")[2] or summary
        text = body.strip()
        rules.append(
            {
                "id": detector.code,
                "name": detector.name,
                "shortDescription": {"text": f"{detector.name}: {short}"},
                "fullDescription": {"text": summary},
                "help": {"text": text, "markdown": text},
                "properties": {"tags": ["mixture-of-experts", "routing"]},
            }
        )
    known = {rule["id"] for rule in rules}
    for finding in [*result.findings, *((judged.fixed or ()) if judged else ())]:
        if _rule(finding) not in known:
            known.add(_rule(finding))
            rules.append({"id": _rule(finding), "name": plain(finding.detector)})
    return rules


def _result(finding: Finding, state: str, places: dict[str, int], anchor: str, result: Result) -> Json:
    made: Json = {
        "ruleId": _rule(finding),
        "ruleIndex": places[_rule(finding)],
        "level": _LEVELS[finding.severity],
        "message": {"text": _said(" ".join(f"{part.rstrip('.')}." for part in (finding.message, *facts(finding))))},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": anchor, "uriBaseId": "%SRCROOT%"},
                    "region": {"startLine": 1},
                },
                "logicalLocations": [
                    {"fullyQualifiedName": plain(finding.router or result.model.name), "kind": "module"}
                ],
            }
        ],
        # GitHub matches alerts by primaryLocationLineHash alone; all results stand in the same line.
        "partialFingerprints": {
            "moeprobe/v1": finding.fingerprint,
            "primaryLocationLineHash": f"{finding.fingerprint}:1",
        },
        "properties": {
            "layer": finding.layer,
            "experts": finding.experts,
            "quantity": plain(finding.quantity),
            "measured": _finite(finding.measured),
            "limit": _finite(finding.limit),
            "cause": plain(finding.cause),
            "remedy": plain(finding.remedy),
        },
    }
    return made | ({"baselineState": state} if state else {})


def _rule(finding: Finding) -> str:
    return plain(finding.code or finding.detector)


def _state(finding: Finding, judged: Verdict | None) -> str:
    if judged is None or judged.new is None:
        return ""
    return "unchanged" if finding in (judged.known or ()) else "new"


def _invocation(result: Result, judged: Verdict | None) -> Json:
    undone = Counter((c.detector, c.verdict, c.reason) for c in result.checks if c.verdict in ("failed", "skipped"))
    notes = [
        {
            "level": "error" if verdict == "failed" else "note",
            "message": {"text": _said(f"{detector} {verdict} at {count} of its places: {reason}")},
        }
        for (detector, verdict, reason), count in undone.items()
    ]
    notes += [
        {
            "level": "error" if one.blocking else "note",
            "message": {"text": _said(f"Not checked: {one.what}: {one.why}")},
        }
        for one in result.not_checked
    ]
    made: Json = {
        "executionSuccessful": judged is None or judged.exit_code != EXIT_NOT_CHECKED,
        "commandLine": plain(result.environment.command),
        "toolExecutionNotifications": notes,
    }
    if judged is not None:
        made["exitCode"] = judged.exit_code
    with suppress(ValueError):
        started = datetime.fromisoformat(result.environment.started).astimezone(UTC)
        made["startTimeUtc"] = started.strftime("%Y-%m-%dT%H:%M:%SZ")
    return made


def _anchor(result: Result) -> str:
    """Name the file that a finding is shown at: the recipe of the command, else the policy file.

    Only a path inside the repository can be shown, so one that is absolute or climbs out of it is passed over.
    """
    words: list[str] = []
    with suppress(ValueError):
        words = shlex.split(result.environment.command)
    given = [after for word, after in pairwise(words) if word == "--recipe"]
    given += [word.partition("=")[2] for word in words if word.startswith("--recipe=")]
    given += [setting.origin for setting in result.settings]
    for one in given:
        path = PurePosixPath(one)
        if path.suffix in (".yaml", ".yml", ".toml") and not path.is_absolute() and ".." not in path.parts:
            return quote(plain(str(path)))
    return _POLICY


def _said(text: str) -> str:
    """One harmless line; brackets that SARIF would read as a link are literal."""
    return _LINK.sub(r"\\[", plain(text))


def _finite(value: float | int | None) -> float | int | str | None:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
