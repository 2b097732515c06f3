"""What the demo offers: the bundled checkpoint and the names of the faults. No torch here."""

from pathlib import Path

FAULTS = {
    "flat-scores": "the gate matrix of one layer is multiplied by 1e-4",
    "bias-runaway": "the selection bias of one expert is raised by 10",
    "sqrt-nan": "one gate row is turned against its input, until sqrt(softplus) underflows",
    "scale-mismatch": "the routed experts of one layer are 20 times too large",
    "hash-boundary": "the table of one hash layer is all zeros",
}
"""Fault -> what is done; each is named like the detector that finds it."""


def checkpoint_folder() -> Path:
    """Folder of the bundled checkpoint: a tiny DeepSeek-V4, trained by scripts/training/train_checkpoints.py."""
    return Path(__file__).parent / "tiny-deepseek-v4"
