"""The page in headless Chromium: it renders, nothing runs, nothing overflows, at any width and in either scheme.

Needs a Chromium: one on the PATH, or the one that ``playwright install chromium`` brings.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from moeprobe.findings.result import Result
from moeprobe.reporting.html import render
from tests.reporting import bad, samples

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        path = next((found for name in names if (found := shutil.which(name))), None)
        path = path or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium on the PATH, and none from `playwright install chromium`")
        opened = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield opened
        opened.close()


def opened(browser: Browser, result: Result, folder: Path, width: int, **look: Any) -> tuple[Any, list[str]]:
    """Open the report from a file, as a reader would; and what the browser complained about or asked for."""
    file = folder / "report.html"
    file.write_text(render(result), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, **look)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: complaints.append(request.url) if "report.html" not in request.url else None)
    page.goto(file.as_uri())
    return page, [one for one in complaints if not one.startswith("data:image/png;base64,")]


@pytest.mark.parametrize("build", [samples.healthy, samples.sick, samples.weights_only, bad.hostile, bad.nonfinite])
@pytest.mark.parametrize("width", [360, 1000])
def test_it_renders_without_a_complaint_and_without_overflow(
    browser: Browser, build: Any, width: int, tmp_path: Path
) -> None:
    page, complaints = opened(browser, build(), tmp_path, width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert complaints == []
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("h1").is_visible()
    for figure in page.locator("figure svg").all():
        box = figure.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 60


def test_no_name_becomes_markup(browser: Browser, tmp_path: Path) -> None:
    page, complaints = opened(browser, bad.hostile(), tmp_path, 1000)
    assert complaints == []
    tags = page.evaluate("[...new Set([...document.querySelectorAll('*')].map(one => one.localName))]")
    assert not {"script", "img", "iframe", "object", "embed", "base", "link", "form", "input"} & set(tags)
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert page.evaluate(handlers) == []
    assert "<script>alert(1)</script>" in page.inner_text("h1")
    assert "<script>alert(1)</script>" in page.title()


def contrast(page: Any, selector: str) -> float:
    """Ratio of the luminances of text and ground (WCAG 2.2, 1.4.3)."""
    pair = page.evaluate(
        "s => [getComputedStyle(document.querySelector(s)).color, getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    values = []
    for colour in pair:
        channels = [float(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        values.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(values) + 0.05) / (min(values) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(browser: Browser, scheme: str, tmp_path: Path) -> None:
    page, complaints = opened(browser, samples.sick(), tmp_path, 1000, color_scheme=scheme)
    assert complaints == []
    assert all(contrast(page, selector) >= 4.5 for selector in ("h2", "p", "a[href='#part-1']", "summary", "td"))
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    paper = page.evaluate("getComputedStyle(document.querySelector('figure')).backgroundColor")
    assert paper == "rgb(255, 255, 255)", "figures are drawn for white paper"


def test_it_can_be_read_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    page, _ = opened(browser, samples.sick(), tmp_path, 1000)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    page.evaluate("document.querySelector('summary').focus()")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")


def test_it_prints(browser: Browser, tmp_path: Path) -> None:
    page, _ = opened(browser, samples.sick(), tmp_path, 1000, color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")
