"""Launch: what the environment of this process says about the others. It costs no torch."""

import os
from typing import Literal, get_args

from moeprobe.errors import OptionError

Kind = Literal["data", "tensor", "expert"]
"""What processes share: the batches, or the weights as transformers spreads them."""
KINDS: tuple[Kind, ...] = get_args(Kind)


def rank() -> int:
    """Number of this process; 0 where there is one."""
    return _number("RANK", 0)


def size() -> int:
    """Number of processes that were really started together."""
    return max(1, _number("WORLD_SIZE", 1))


def local_rank() -> int:
    """Number of this process on its machine."""
    return _number("LOCAL_RANK", 0)


def leads() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def misled() -> str | None:
    """What to say where a launcher was asked for several processes and started one; None where all is well."""
    if "WORLD_SIZE" not in os.environ and "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ:
        return (
            "accelerate was asked for several processes and has started one (it does so with --cpu on one machine); "
            "for more use `torchrun --nproc-per-node N -m moeprobe ...`."
        )
    return None


def own_device(device_map: str | None, kind: Kind) -> str | None:
    """Where this process loads the model: with ``cuda``, every process of a machine takes a GPU of its own.

    Raises:
        OptionError: it cannot be loaded so in several processes, or there is only one to spread it over.

    """
    if kind != "data" and size() == 1:
        raise OptionError(
            f"{kind} parallelism needs several processes: torchrun --nproc-per-node N -m moeprobe ... "
            f"--parallel {kind}."
        )
    if size() == 1 or device_map is None:
        return device_map
    if kind != "data":
        raise OptionError(f"transformers places a model with --parallel {kind} itself; leave --device-map out.")
    if device_map == "cuda":
        return f"cuda:{local_rank()}"
    if device_map != "cpu":
        raise OptionError(
            f"--device-map {device_map} is for one process; in several, each holds the whole model on --device-map "
            "cuda (a GPU of its own) or cpu."
        )
    return device_map


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else otherwise
