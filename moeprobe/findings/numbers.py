"""Numbers that are more than one number: a value with its interval, quantiles over tokens."""

from moeprobe.findings.plain import Plain


class Interval(Plain):
    """A statistic with its 99 % interval over documents (None where there are too few of them)."""

    value: float
    low: float | None = None
    high: float | None = None


class Quantiles(Plain):
    """Quantiles over tokens, read off a histogram with fixed edges; None where nothing was seen."""

    p01: float | None
    p05: float | None
    p50: float | None
    p95: float | None
    p99: float | None
