"""Results that try to break a report: hostile text in every string, and numbers that are no numbers."""

import json
import math
from collections.abc import Callable
from itertools import cycle
from typing import Any

from moeprobe.findings.result import Result
from tests.reporting import samples

ATTACK = (
    "x|`a`<script>alert(1)</script>\"><img src=x onerror=alert(2)>'</style></title><!-- ]]> --><svg onload=alert(3)>"
    "\n::error::owned\r\n%0A::set-output name=a::b\n[x](javascript:alert(4)) ![y](http://evil.example/z) **b** {0}"
    " \u202eabc\u2066 \x1b[31mred\x1b]0;t\x07 \x9b2J \x00 \x02s\x03 \x0ec\x0f \ufffe &amp; {{ 7*7 }} {% raw %}"
    " ##[add-mask]x\n  ::stop-commands::y @everyone "
)
_KEPT = {"severity", "verdict", "kind", "score_function", "bias_on", "origin", "measured", "limit", "group"}
"""Fields that can hold nothing but their own words."""


def hostile(whole: Result | None = None) -> Result:
    """Every name, message, path, label and key of a result with findings of every kind holds the attack."""
    data = json.loads((whole or samples.sick()).model_dump_json())
    for finding in data["findings"]:
        del finding["fingerprint"]
    paths = {one["router"]["path"] for one in data["evidence"]["routers"]}

    def attack(text: str, key: str) -> str:
        if key in _KEPT:
            return text
        return f"{ATTACK}{text}" if text in paths else ATTACK

    spoilt = _walk(data, strings=attack)
    last = spoilt["evidence"]["routers"][-1]["router"]
    spoilt["findings"][0].update(router=last["path"], layer=None)  # a router without a layer is named by its path
    last.update(layer=None)
    return Result.model_validate(spoilt | {"limits": {ATTACK: {ATTACK: 0.01}}})


def nonfinite(whole: Result | None = None) -> Result:
    """Every float of a result with findings is NaN or infinite."""
    data = json.loads((whole or samples.sick()).model_dump_json())
    for finding in data["findings"]:
        del finding["fingerprint"]
    values = cycle((math.nan, math.inf, -math.inf))
    return Result.model_validate(_walk(data, floats=lambda: next(values)))


def _walk(
    value: Any,
    key: str = "",
    strings: Callable[[str, str], str] = lambda text, _: text,
    floats: Callable[[], float] | None = None,
) -> Any:
    if isinstance(value, dict):
        return {name: _walk(below, name, strings, floats) for name, below in value.items()}
    if isinstance(value, list):
        return [_walk(below, key, strings, floats) for below in value]
    if isinstance(value, str):
        return strings(value, key)
    return floats() if floats and isinstance(value, float) else value
