"""The GitHub action and the pre-commit hook, run as their runners run them.

The scripts of action.yml are executed by bash with the variables that a runner sets. Installing is replaced: the
environment is a folder with a command ``moeprobe`` in it, which notes how it was called, or is the real one.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
INPUT = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")

FAKE = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
json.dump(arguments, open("called.json", "w"))
for argument in arguments:
    if argument.startswith("--output=") and {code} != 2:
        open(argument.split("=", 2)[2], "w").write("made")
print("::notice title=moeprobe::fake")
sys.exit({code})
"""
REAL = "#!{python}\nfrom moeprobe.cli import run\nrun()\n"


@dataclass
class Job:
    """One use of the action in an empty workspace."""

    code: int
    log: str
    outputs: dict[str, str]
    workspace: Path
    summary: str
    called: list[str] = field(default_factory=list)


def command(path: Path, program: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(program, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(tmp_path: Path, program: str, **given: str) -> Job:
    """Run the steps in order; a step that fails ends the job, as on a runner."""
    known = ACTION["inputs"]
    inputs = {name: str(values.get("default", "")) for name, values in known.items()}
    for name, value in given.items():
        inputs[name.replace("_", "-")] = value
    assert inputs.keys() == known.keys()
    checkout, temp, workspace = tmp_path / "action", tmp_path / "temp", tmp_path / "workspace"
    for folder in (temp, workspace):
        folder.mkdir()
    command(temp / "prepared", program)
    command(
        checkout / "scripts/environment",
        '#!/bin/bash\nset -eu\ntest "$2" = .\ntest "$PYTHON" = python3\nmkdir -p "$1/bin"\n'
        f'cp "{temp}/prepared" "$1/bin/moeprobe"\n',
    )
    runner = {
        "GITHUB_ACTION_PATH": str(checkout),
        "GITHUB_OUTPUT": str(temp / "output"),
        "GITHUB_STEP_SUMMARY": str(temp / "summary"),
        "RUNNER_TEMP": str(temp),
    }
    log, code = "", 0
    for step in STEPS:
        script = temp / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        own = {name: INPUT.sub(lambda match: inputs[match.group(1)], value) for name, value in step["env"].items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **runner, **own},
            cwd=workspace, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        log, code = log + done.stdout + done.stderr, done.returncode
        if code:
            break
    noted, summary, called = temp / "output", temp / "summary", workspace / "called.json"
    outputs = outputs_of(noted.read_text(encoding="utf-8") if noted.exists() else "")
    told = summary.read_text(encoding="utf-8") if summary.exists() else ""
    return Job(code, log, outputs, workspace, told, json.loads(called.read_text()) if called.exists() else [])


def outputs_of(text: str) -> dict[str, str]:
    """Read the file of outputs as the runner does."""
    lines, found = iter(text.splitlines()), {}
    for line in lines:
        name, _, mark = line.partition("<<")
        assert mark, line
        value = []
        for below in lines:
            if below == mark:
                break
            value.append(below)
        found[name] = "\n".join(value)
    return found


def test_no_input_is_put_into_a_script() -> None:
    for step in STEPS:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]
    told = set(INPUT.findall(json.dumps(STEPS)))
    assert told == set(ACTION["inputs"]), "an input that nothing reads"
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.check.outputs.{name} }}}}"


def test_it_installs_itself_with_the_constraints() -> None:
    assert os.access(ROOT / "scripts/environment", os.X_OK)
    assert "--constraint constraints.txt" in (ROOT / "scripts/environment").read_text(encoding="utf-8")
    assert 'scripts/environment "$RUNNER_TEMP/moeprobe" .' in STEPS[0]["run"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_check_and_its_outputs(tmp_path: Path, code: int) -> None:
    job = run(tmp_path, FAKE.format(python=sys.executable, code=code), model="org/name", fail_on="warning")
    assert job.code == code
    assert job.called[0] == "check"
    assert job.called[-2:] == ["--", "org/name"]
    assert "--fail-on=warning" in job.called
    assert not [one for one in job.called if one.endswith("=")], "an empty input is no argument"
    assert job.outputs == {
        "exit-code": str(code), "sarif": "moeprobe-report/moeprobe.sarif", "junit": "moeprobe-report/moeprobe.xml",
        "html": "moeprobe-report/report.html", "result": "moeprobe-report/result.json",
    }  # fmt: skip
    assert all((job.workspace / path).is_file() for name, path in job.outputs.items() if name != "exit-code")


def test_what_could_not_be_checked_has_no_files(tmp_path: Path) -> None:
    job = run(tmp_path, FAKE.format(python=sys.executable, code=2), model="x")
    assert job.code == 2
    assert job.outputs == {"exit-code": "2"}
    assert "::error title=moeprobe::The routing could not be checked" in job.log


def test_inputs_are_never_run(tmp_path: Path) -> None:
    attack = "a'b\"; touch owned; $(touch owned) `touch owned` \\ * ${HOME} | x\nexit-code=0"
    job = run(
        tmp_path, FAKE.format(python=sys.executable, code=1), model=attack, revision=attack, recipe=attack,
        baseline=attack, select=attack, ignore=attack, fail_on=attack,
        args="--max-tokens=600\r\n\n--limit\nflat-scores.std_error=0 02\n$(touch owned)", output="re port",
    )  # fmt: skip
    assert not list(tmp_path.rglob("owned"))
    assert job.called[-1] == attack
    for name in ("revision", "recipe", "baseline", "select", "ignore", "fail-on"):
        assert f"--{name}={attack}" in job.called
    at = job.called.index("--max-tokens=600")
    assert job.called[at : at + 4] == ["--max-tokens=600", "--limit", "flat-scores.std_error=0 02", "$(touch owned)"]
    assert job.outputs["exit-code"] == "1"
    assert job.outputs["sarif"] == "re port/moeprobe.sarif"


def test_the_real_check(tmp_path: Path, bundled: Path) -> None:
    arguments = "--max-tokens=2048\n--limit=flat-scores.std_warning=1000\n--limit=flat-scores.std_error=999"
    job = run(
        tmp_path, REAL.format(python=sys.executable), model=str(bundled), recipe="quick", select="flat-scores",
        args=arguments,
    )  # fmt: skip
    assert job.code == 1, job.log
    assert "::error title=flat-scores (MP101)::" in job.log
    assert job.summary.startswith("# Routing of")
    sarif = json.loads((job.workspace / job.outputs["sarif"]).read_text(encoding="utf-8"))
    assert sarif["runs"][0]["results"]
    assert job.outputs["exit-code"] == "1"


def test_the_hook_validates_recipes(tmp_path: Path) -> None:
    """Through pre-commit itself, from this checkout, on a repository with a recipe and other YAML."""
    repository = tmp_path / "repository"
    (repository / "recipes").mkdir(parents=True)
    (repository / "recipes/ours.yaml").write_text("name: ours\n")
    (repository / "other.yaml").write_text("a: 1\n")
    command(tmp_path / "bin/moeprobe", FAKE.format(python=sys.executable, code=1))
    hook = tmp_path / "hook"
    hook.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hook)
    environ = os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PRE_COMMIT_HOME": str(tmp_path / "home"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    for folder in (repository, hook):
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
            subprocess.run(["git", *arguments], cwd=folder, env=environ, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "try-repo", str(hook), "moeprobe-recipes", "--all-files"],
        cwd=repository, env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "moeprobe recipes" in done.stdout
    assert json.loads((repository / "called.json").read_text()) == ["recipe", "validate", "recipes/ours.yaml"]
