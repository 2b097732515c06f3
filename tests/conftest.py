"""What every test needs: no network, no threads beyond the cores, quiet libraries."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tests run side by side, one on each core; programs that they start must not take more than one, either.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    """Folder of the small trained checkpoints."""
    return Path(__file__).parent / "checkpoints"


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The bundled checkpoint, DeepSeek-V4."""
    from moeprobe.demo.catalogue import checkpoint_folder

    return checkpoint_folder()


pytest_plugins = ["tests.commandline"]
