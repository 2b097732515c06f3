"""The page: valid, self-contained, readable without sight or mouse, and never run by a name. See test_browser too."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from xml.etree.ElementTree import Element

import html5lib
import pytest

from moeprobe.findings.result import Result
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.html import MOST_BYTES, render
from moeprobe.reporting.inline_svg import inline_svg
from tests.reporting import bad, samples

BUILDERS = (samples.healthy, samples.sick, samples.weights_only, bad.hostile, bad.nonfinite)
PARTS = {
    "html", "head", "body", "meta", "title", "style", "a", "header", "nav", "main", "section", "h1", "h2", "h3", "p",
    "ul", "li", "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "details", "summary", "pre", "code",
    "strong", "svg", "g", "path", "defs", "use", "clipPath", "rect", "image",
}  # fmt: skip


@pytest.fixture(scope="module", params=BUILDERS, ids=lambda build: f"{build.__module__}.{build.__name__}")
def page(request: pytest.FixtureRequest) -> str:
    return render(request.param())


@pytest.fixture(scope="module")
def tree(page: str) -> Element:
    return parsed(page)


def parsed(page: str) -> Element:
    """Parse as a browser does, and fail on any error that the standard names."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    tree: Element = parser.parse(page)
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.partition("}")[2] or element.tag
    return tree


def test_nothing_is_in_the_page_but_what_we_write(tree: Element) -> None:
    assert {element.tag for element in tree.iter() if isinstance(element.tag, str)} <= PARTS
    for element in tree.iter():
        assert not [name for name in element.attrib if name.lower().startswith(("on", "src", "action", "srcdoc"))]
        for name in ("href", "{http://www.w3.org/1999/xlink}href"):
            target = element.get(name, "#")
            assert target.startswith("#") or (element.tag == "image" and target.startswith("data:image/png;base64,"))
        assert "url(" not in element.get("style", "").replace("url(#", "")


def test_ids_are_unique_and_references_exist(tree: Element) -> None:
    ids = Counter(element.get("id") for element in tree.iter() if element.get("id"))
    assert set(ids.values()) == {1}
    used = {value[1:] for element in tree.iter() if (value := element.get("href", "")).startswith("#")}
    used |= {
        id_ for element in tree.iter() for id_ in re.findall(r"url\(#([^)]*)\)", " ".join(element.attrib.values()))
    }
    used |= {value for element in tree.iter() if (value := element.get("aria-labelledby"))}
    assert used <= set(ids)


def test_the_head_says_what_a_browser_needs(tree: Element) -> None:
    assert tree.get("lang") == "en"
    assert tree.findtext("head/title")
    metas = {meta.get("name") or meta.get("http-equiv"): meta.get("content") for meta in tree.findall("head/meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert "default-src 'none'" in metas["Content-Security-Policy"]
    assert "script-src" not in metas["Content-Security-Policy"]


def test_headings_are_nested(tree: Element) -> None:
    levels = [int(element.tag[1]) for element in tree.iter() if element.tag in ("h1", "h2", "h3")]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_figure_is_described_and_has_a_table_beside_it(tree: Element) -> None:
    for section in tree.iter("section"):
        blocks = list(section)
        for place, block in enumerate(blocks):
            if block.tag == "figure":
                (svg,) = block
                assert svg.get("role") == "img"
                assert len(svg.get("aria-label", "")) > 30
                ends = (p for p in range(place + 1, len(blocks)) if blocks[p].tag in ("h2", "h3"))
                beside = blocks[place : next(ends, len(blocks))]
                assert any(one.tag == "table" for block in beside for one in block.iter())


def test_what_scrolls_can_be_reached_by_keyboard(tree: Element) -> None:
    wide = [element for element in tree.iter() if element.get("class") == "wide" or element.tag in ("pre", "figure")]
    assert wide
    assert all(element.get("tabindex") == "0" for element in wide)


def test_a_name_is_shown_as_it_is() -> None:
    tree = parsed(render(bad.hostile()))
    title = "".join(tree.find("body/header/h1").itertext())  # type: ignore[union-attr]
    assert "<script>alert(1)</script>" in title
    assert "{{ 7*7 }}" in title


def test_the_same_bytes_at_every_run() -> None:
    assert render(samples.sick()) == render(samples.sick())


@pytest.mark.parametrize("layers", [61, 96])
def test_a_large_model_fits(layers: int) -> None:
    page = render(samples.result(layers=layers, experts=384, top_k=8, hashed=2))
    assert len(page.encode()) <= MOST_BYTES
    assert "was left out" not in page


def test_figures_that_do_not_fit_are_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = render(samples.sick())
    monkeypatch.setattr("moeprobe.reporting.html.MOST_BYTES", len(whole.encode()) - 1)
    less = render(samples.sick())
    assert (whole.count("<figure"), less.count("<figure"), less.count("The figure was left out")) == (9, 6, 3)
    monkeypatch.setattr("moeprobe.reporting.html.MOST_BYTES", 1)
    none = render(samples.sick())
    assert (none.count("<figure"), none.count("The figure was left out")) == (0, 9)
    assert none.count("<table") == whole.count("<table")


def drawing(body: str, name: str = "load") -> Callable[[], str]:
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt">'
    return lambda: f"<?xml version='1.0'?><!-- {name} -->{head}{body}</svg>"


def test_a_figure_keeps_only_what_draws() -> None:
    body = (
        '<script>alert(1)</script><style>*{}</style><text>x</text><g id="a" onclick="x()"><foreignObject/></g>'
        '<use xlink:href="http://evil.example/#a"/><use xlink:href="#a" x="1.23456" clip-path="url(#a)"/><!-- y -->'
    )
    made = inline_svg(Picture("load", 'a "<b>"', drawing(body)))
    assert not re.search("script|style|text|onclick|foreign|evil|<!--|width", made)
    assert '<use href="#load-a" x="1.23" clip-path="url(#load-a)"' in made
    assert 'aria-label="a &quot;&lt;b&gt;&quot;"' in made


def test_only_the_worst_colours_the_verdict() -> None:
    states = {build: re.search(r'<header class="(\w+)"', render(build())) for build in BUILDERS}
    assert [one.group(1) if one else None for one in states.values()][:2] == ["clean", "error"]
    empty: Result = samples.healthy().model_copy(update={"checks": []})
    assert '<header class="unknown">' in render(empty)
