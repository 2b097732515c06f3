"""The rule of transformers' own router class, measured on random numbers, is the rule of every healthy model."""

import pytest
import torch

from tests.zoo.case import Case, build
from tests.zoo.compare import recorded
from tests.zoo.zoo import ZOO

NOT_TOLD = {"dbrx", "diffusion_gemma", "doge", "gemma4", "jetmoe", "phimoe", "zaya", "dots3_note"}
"""Families with a router whose rule no class alone tells: the choice is in a block, or no rule fits the weights."""


@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
def test_the_class_says_what_was_measured(case: Case) -> None:
    recording, _, _ = recorded(case, build(case, torch.bfloat16), "right")
    told = [router for router in recording.routers if router.reference is not None]
    assert told or case.family in NOT_TOLD
    assert len(told) == len(recording.routers) or case.family in NOT_TOLD
    for router in told:
        reference = router.reference
        assert reference is not None
        assert set(reference.explaining) & set(router.explaining)
        assert reference.renormalised == router.renormalised
        if reference.scaling_factor is not None:
            assert router.scaling_factor == pytest.approx(reference.scaling_factor, rel=0.02)
        assert router.choosing == []
        if router.kind == "top-k" and reference.selection_agreement is not None:
            assert reference.selection_agreement > 0.99
