"""Quantised experts take other shapes and names than the model's: nothing is missing, unless it is."""

from pathlib import Path

import pytest

from moeprobe.errors import IncompleteError
from moeprobe.weights_scan import scan
from tests.quantised import block_fp8, mxfp4
from tests.weights_only.stored import change

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "deepseek_v3"


def test_block_fp8(tmp_path: Path) -> None:
    folder = block_fp8(CHECKPOINT, tmp_path / "fp8")
    found = scan(folder)
    assert (len(found.routers), found.unread) == (3, [])
    lost = "model.layers.2.mlp.experts.0.down_proj.weight_scale_inv"
    change(folder, lambda tensors, _: tensors.pop(lost))
    with pytest.raises(IncompleteError, match=r"has no down_proj\.weight_scale_inv|experts below|Expert 0"):
        scan(folder)


def test_mxfp4(tmp_path: Path) -> None:
    folder = mxfp4(tmp_path / "mxfp4")
    found = scan(folder)
    assert (len(found.routers), found.unread) == (2, [])
    change(folder, lambda tensors, _: tensors.pop("model.layers.1.mlp.experts.down_proj_scales"))
    with pytest.raises(IncompleteError, match=r"layers\.1\.mlp\.experts\.down_proj .*is quantised and has no _scales"):
        scan(folder)
