"""When a routed branch of odd size, or an underflow, is the consequence of another finding of the same router."""

from moeprobe.detectors import flatness, scale_mismatch, sqrt_nan, tensor_sizes
from moeprobe.findings.finding import Finding

_SIZES = (scale_mismatch.TOO_LARGE, scale_mismatch.TOO_SMALL, scale_mismatch.OUTLIER)
_EDGE = (sqrt_nan.NAN_GRADIENT, sqrt_nan.NEAR_EDGE, sqrt_nan.GUARDED)


def sized_by_another_fault(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """A router that is broken makes its branch useless or small, and the loss then wants another size of it.

    The loss of the whole model feels a fault in any layer.
    """
    sizes = found.detector == "scale-mismatch" and found.cause in _SIZES
    broken = root.severity == "error" and root.detector != "scale-mismatch"
    worthless = root.detector == "permuted-experts" and found.router is not None
    return sizes and (broken or worthless) and found.router in (None, root.router)


def sized_by_a_tensor(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Where a tensor of the branch, or of the shared expert beside it, is off, so is the ratio of the two."""
    if root.cause == flatness.LOW_RANK:
        # Rows that are multiples of one another have whatever lengths the multiples give.
        return found.cause == tensor_sizes.ROWS and root.router == found.router
    sizes = found.detector == "scale-mismatch" and found.cause in _SIZES
    return sizes and root.cause in tensor_sizes.TENSORS and found.router in (None, root.router)


def unsettled_by_another_fault(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """The handover after the hash layers is unstable where that router is broken anyway."""
    unsettled = found.detector == "hash-boundary" and found.severity == "warning" and root.router == found.router
    return unsettled and root.severity == "error" and root.detector != "hash-boundary"


def one_underflow(root: Finding, found: Finding, _depth: dict[str | None, int]) -> bool:
    """Scores that fade in the forward pass lie at the edge of the backward pass as well: one underflow."""
    faded = root.detector == "sqrt-nan" and root.cause == sqrt_nan.FADED
    return faded and found.detector == "sqrt-nan" and found.cause in _EDGE and root.router == found.router
