"""All formats: whole, harmless, and functions of the saved result."""

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from moeprobe.findings.result import Result
from moeprobe.reporting.formats import FORMAT_NAMES, render
from tests.reporting import bad, samples, verdicts

BUILDERS = (samples.healthy, samples.sick, samples.weights_only, bad.hostile, bad.nonfinite)


@pytest.fixture(scope="module", params=BUILDERS, ids=lambda build: f"{build.__module__}.{build.__name__}")
def result(request: pytest.FixtureRequest) -> Result:
    made: Result = request.param()
    return made


@pytest.fixture(autouse=True)
def no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_nothing_acts_on_a_terminal_or_a_runner(name: str, result: Result) -> None:
    for verdict in (None, verdicts.failed(result)):
        written = render(result, name, verdict)
        assert written.endswith("\n")
        unseen = {c for c in written if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")}
        assert unseen <= {"\n", "\t"}
        assert "##[" not in written
        commands = re.findall(r"^\s*::.*", written, re.MULTILINE)
        own = re.compile(r"::(error|warning|notice) title=[^:,]*::")
        assert all(name == "github" and own.match(one) for one in commands)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_format_is_a_function_of_the_saved_result(name: str, result: Result, tmp_path: Path) -> None:
    assert render(Result.load(result.save(tmp_path / "result.json")), name) == render(result, name)


def test_json_is_the_result_again(result: Result, tmp_path: Path) -> None:
    (tmp_path / "again.json").write_text(render(result, "json"), encoding="ascii")
    again = Result.load(tmp_path / "again.json")
    assert again.model_dump_json() == result.model_dump_json()


def test_a_verdict_is_told_in_every_format_for_people() -> None:
    result = samples.sick()
    assert render(result, "text", verdicts.failed(result)).endswith("FAILED: 5 findings of severity error.\n")
    for name in ("markdown", "html", "github"):
        assert "Check failed: 5 findings of severity error." in render(result, name, verdicts.failed(result))
        assert "Check passed: no findings" in render(samples.healthy(), name, verdicts.passed())
        assert "Check " not in render(samples.healthy(), name)


def test_a_baseline_has_its_part_in_the_report() -> None:
    result = samples.sick()
    told = render(verdicts.compared(result), "markdown", verdicts.against(result))
    part = told.split("## Against the baseline")[1].split("\n## ")[0]
    assert "1 known, 1 fixed" in part
    assert re.search(r"^\| fixed +\| error", part, re.MULTILINE)
    assert "Against the baseline" not in render(result, "markdown", verdicts.failed(result))


def test_only_html_draws() -> None:
    code = (
        "import sys\n"
        "from tests.reporting.samples import sick\n"
        "from moeprobe.reporting.formats import FORMAT_NAMES, render\n"
        "for name in FORMAT_NAMES:\n"
        "    if name != 'html': render(sick(), name)\n"
        "assert 'matplotlib' not in sys.modules\n"
        "render(sick(), 'html')\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=120, check=True)
