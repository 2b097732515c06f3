"""Spread: a model whose weights lie on several processes, as transformers' tensor and expert parallelism leave it."""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_spread(model: nn.Module) -> bool:
    """Whether some weights of the model lie on several processes, so that all of them read every batch together."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its numbers; where they are spread, every process must ask at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
