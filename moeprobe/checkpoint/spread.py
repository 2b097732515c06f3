"""Spread: a model whose weights lie on several processes, as transformers' tensor and expert parallelism leave it."""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_spread(model: nn.Module) -> bool:
    """Whether some weights of the model lie on several processes, so that all of them read every batch together."""
    return any(map(is_spread_tensor, model.parameters()))


def is_spread_tensor(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie on several processes; its shape is that of the whole."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its numbers; where they are spread, every process must ask at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
