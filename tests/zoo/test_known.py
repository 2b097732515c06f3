"""The zoo knows every MoE family of the installed transformers, and docs/families.md says what was measured."""

import re
from pathlib import Path

import pytest
import transformers

from scripts.families import PAGE, line
from tests.zoo.case import Case
from tests.zoo.facts import row
from tests.zoo.zoo import ZOO

MODELS = Path(transformers.__file__).parent / "models"
ROUTED = re.compile(r"top_k_index\b|use_experts_implementation|\"router_logits\":|num_(?:local_)?experts\b")
"""What the code of a family with token-routed experts holds, one of these at least."""
NOT_ROUTED = {
    "bamba": "num_experts is fixed to 1",
    "vitpose_backbone": "an expert is the index of a data set",
}
WRAPPERS = {"kimi_k25", "nemotron_h_omni", "nemo_speechlm"}
"""Families without routers of their own, whose text model has them."""


def routed_folders() -> set[str]:
    return {
        path.parent.name
        for path in MODELS.glob("*/modeling_*.py")
        if ROUTED.search(path.read_text(encoding="utf-8")) and "Flax" not in path.name
    }


def test_transformers_has_no_family_that_the_zoo_does_not_know() -> None:
    known = {case.family for case in ZOO} | set(NOT_ROUTED)
    unknown = routed_folders() - known
    assert not unknown, f"new in transformers {transformers.__version__}: {sorted(unknown)}; add a case to tests/zoo"


def test_the_zoo_names_families_of_transformers() -> None:
    families = {case.family for case in ZOO}
    assert len(families) >= 74
    assert len({case.name for case in ZOO}) == len(ZOO)
    # A folder says what a family is; wrappers are named after theirs as well.
    folders = {path.name for path in MODELS.iterdir()}
    assert not families - WRAPPERS - folders


@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
def test_the_page_says_what_is_measured(case: Case) -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert line(row(case)) in page, "run python scripts/families.py"
