"""docs/adding-a-family.md, followed literally."""

import re
from pathlib import Path

import pytest

import moeprobe
from moeprobe.errors import OptionError
from moeprobe.routers import readers

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-family.md"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_READERS", dict(readers._READERS))


def test_the_page_works_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(first, str(PAGE), "exec"), names)
    layer = names["Layer"]()
    with pytest.raises(moeprobe.MoeprobeError, match="No router was found"), moeprobe.record(layer):
        pass
    exec(compile(second, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out.strip()
    assert f"It prints `{printed}`" in text


def test_names_of_classes_will_do() -> None:
    moeprobe.register_router("SomeRouter", lambda *_: moeprobe.Routing())
    with pytest.raises(OptionError, match="a router class"):
        moeprobe.register_router("", lambda *_: moeprobe.Routing())
