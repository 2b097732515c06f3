"""Root mean squares of experts' tensors, each from a sample that is spread evenly over it."""

from torch import Tensor, float64, linalg, nn

from moeprobe.checkpoint.spread import is_spread
from moeprobe.routers.duplicates import sample_of
from moeprobe.routers.experts import is_plain
from moeprobe.routers.find import Site


class Sizes:
    """Root mean square of every matrix of every expert, expert by expert.

    Vectors are left out: biases may be zero, and start so.
    """

    def __init__(self) -> None:
        self._found: dict[str, list[float | None]] = {}

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Take in the tensors of the next expert."""
        total = sum(tensor.numel() for tensor in tensors.values())
        for name, tensor in tensors.items():
            if tensor.ndim >= 2:
                self._found.setdefault(name, []).append(root_mean_square(tensor, total))

    def value(self) -> dict[str, list[float | None]]:
        """Name -> [experts] in the order in which they came."""
        return self._found


def root_mean_square(tensor: Tensor, total: int) -> float | None:
    """Root mean square of a sample of the entries, None where it is not finite; zero only if all entries are.

    Args:
        tensor: any shape, floating point.
        total: entries of all tensors that share one sample.

    """
    sample = sample_of(tensor.detach().reshape(-1), total).reshape(-1)
    norm = float(linalg.vector_norm(sample, dtype=float64))
    if norm == 0 and bool(tensor.any()):
        sample = tensor.reshape(-1)
        norm = float(linalg.vector_norm(sample, dtype=float64))
    size = norm / max(1, sample.numel()) ** 0.5
    return size if size < float("inf") else None


def shared_sizes(site: Site) -> dict[str, float | None]:
    """Name in the block -> root mean square, for the matrices of the shared expert; empty where they are not known."""
    if site.shared is None or is_spread(site.shared):
        return {}
    matrices = {name: p for name, p in site.shared.named_parameters() if p.ndim >= 2}
    if any(p.is_meta or not is_plain(p) for p in matrices.values()) or _quantised(site.shared):
        return {}
    total = sum(p.numel() for p in matrices.values())
    return {f"{site.shared_name}.{name}": root_mean_square(p, total) for name, p in matrices.items()}


def _quantised(module: nn.Module) -> bool:
    """Whether scales beside the matrices decide their size."""
    return any("scale" in name for name, _ in [*module.named_parameters(), *module.named_buffers()])
