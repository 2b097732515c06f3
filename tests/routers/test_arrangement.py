"""Where the hidden size lies is said by the module, never guessed where both dimensions fit."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from transformers import GptOssConfig, MixtralConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from moeprobe.routers.arrangement import Arrangement, arrangement, find_inputs

UNKNOWN = Arrangement()


def said(experts: nn.Module) -> Arrangement:
    site: Any = SimpleNamespace(experts=experts)
    return arrangement(site)


SIZES = {"num_local_experts": 4, "hidden_size": 16, "intermediate_size": 8}


def test_transformers_says_it() -> None:
    assert said(GptOssExperts(GptOssConfig(**SIZES))) == Arrangement(transposed=True, interleaved=True)
    assert said(MixtralExperts(MixtralConfig(**SIZES))) == Arrangement(transposed=False)
    assert said(nn.ModuleList([nn.Linear(4, 4)])) == Arrangement(transposed=False)
    plain = nn.Module()
    plain.register_parameter("gate_up_proj", nn.Parameter(nn.Linear(4, 4).weight.unsqueeze(0)))
    assert said(plain) == UNKNOWN


@pytest.mark.parametrize(
    ("shapes", "known", "place"),
    [
        ({"gate_up_proj": (24, 16), "down_proj": (16, 12)}, UNKNOWN, 1),
        ({"gate_up_proj": (16, 24), "down_proj": (12, 16)}, UNKNOWN, 0),
        # hidden = 2 x intermediate: the way back tells, and so does the module.
        ({"gate_up_proj": (16, 16), "down_proj": (16, 8)}, UNKNOWN, 1),
        ({"gate_up_proj": (16, 16), "down_proj": (8, 16)}, UNKNOWN, 0),
        ({"gate_up_proj": (16, 16)}, Arrangement(transposed=True), 0),
        ({"gate_up_proj": (16, 16)}, Arrangement(transposed=False), 1),
        # A shape that can be read in one way only outweighs what is said.
        ({"gate_up_proj": (24, 16)}, Arrangement(transposed=True), 1),
    ],
)
def test_the_dimension(shapes: dict, known: Arrangement, place: int) -> None:
    found = find_inputs(shapes, 16, known)
    assert (found.hidden, found.reason) == ({"gate_up_proj": place}, "")


def test_what_cannot_be_told_is_not_guessed() -> None:
    square = {"gate_proj.weight": (16, 16), "up_proj.weight": (16, 16), "down_proj.weight": (16, 16)}
    assert "both dimensions of the experts' matrices are 16" in find_inputs(square, 16, UNKNOWN).reason
    assert not find_inputs(square, 16, UNKNOWN).hidden
    assert "the gate's hidden size" in find_inputs({"gate_up_proj": (24, 10)}, 16, UNKNOWN).reason
    assert "recognised by its name" in find_inputs({"down_proj": (16, 12)}, 16, UNKNOWN).reason


def test_the_part_behind_the_activation() -> None:
    stacked = {"gate_up_proj": (16, 24), "gate_up_proj_bias": (24,), "down_proj": (12, 16)}
    assert find_inputs(stacked, 16, UNKNOWN).activated == {"gate_up_proj": slice(12)}
    turns = find_inputs(stacked, 16, Arrangement(transposed=True, interleaved=True))
    assert (turns.activated, turns.paired) == ({"gate_up_proj": slice(None, None, 2)}, {"gate_up_proj"})
    apart = {"w1.weight": (12, 16), "w3.weight": (12, 16), "w2.weight": (16, 12)}
    assert find_inputs(apart, 16, UNKNOWN).activated == {"w1.weight": slice(None)}
    assert set(find_inputs(apart, 16, UNKNOWN).hidden) == {"w1.weight", "w3.weight"}
    plain = {"up_proj": (12, 16), "down_proj": (16, 12)}
    assert find_inputs(plain, 16, UNKNOWN).activated == {"up_proj": slice(None)}
