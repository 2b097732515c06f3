"""The installed package, not only the checkout, has everything that it needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_data_travels_with_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "moeprobe/recipes/full.yaml",
        "moeprobe/demo/tiny-deepseek-v4/model.safetensors",
        "moeprobe/py.typed",
        "moeprobe/reporting/templates/report.html",
        "moeprobe/reporting/templates/report.css",
    ):
        assert part in names
    assert len([n for n in names if n.startswith("moeprobe/probes/data/") and n.endswith(".txt")]) >= 48
    checkpoint = ROOT / "moeprobe/demo/tiny-deepseek-v4"
    assert sum(f.stat().st_size for f in checkpoint.iterdir()) <= 5_000_000


def test_the_installed_package_runs(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    command = [sys.executable, "-P", "-m", "moeprobe", "recipe", "list"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    listed = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "full" in listed.stdout
    program = "import moeprobe, moeprobe.probes.texts as t; print(moeprobe.__file__, len(t.load_documents('builtin')))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(site) in done.stdout
