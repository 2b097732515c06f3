"""What is said of the run."""

from collections.abc import Callable
from pathlib import Path

import torch

from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.checkpoint.provenance import describe_environment
from moeprobe.checkpoint.skeleton import skeleton


def test_the_device_is_not_where_nothing_is(saved: Callable[..., Path]) -> None:
    """A streamed run that is taken up late has never had its embedding in memory."""
    model = skeleton(open_checkpoint(saved("mixtral")))
    model.model.norm.weight = torch.nn.Parameter(torch.ones(16))
    assert str(model.device) == "meta"
    assert describe_environment(model, "", 0, 0, streamed="layer").device == "cpu"
