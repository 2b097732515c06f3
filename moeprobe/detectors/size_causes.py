"""When a routed branch of odd size, or an underflow, is the consequence of another finding of the same router."""

from moeprobe.detectors import scale_mismatch, sqrt_nan
from moeprobe.findings.finding import Finding

_SIZES = (scale_mismatch.TOO_LARGE, scale_mismatch.TOO_SMALL, scale_mismatch.OUTLIER)
_EDGE = (sqrt_nan.NAN_GRADIENT, sqrt_nan.NEAR_EDGE, sqrt_nan.GUARDED)


def small_because_faded(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Weights that fade, and an input that has collapsed, make the routed branch small."""
    sizes = found.detector == "scale-mismatch" and found.cause in _SIZES and root.router == found.router
    fading = root.detector == "sqrt-nan" and root.cause == sqrt_nan.FADED
    flat = root.detector == "flat-scores" and root.severity == "error"
    return sizes and (fading or flat)


def one_underflow(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Scores that fade in the forward pass lie at the edge of the backward pass as well: one underflow."""
    faded = root.detector == "sqrt-nan" and root.cause == sqrt_nan.FADED
    return faded and found.detector == "sqrt-nan" and found.cause in _EDGE and root.router == found.router
