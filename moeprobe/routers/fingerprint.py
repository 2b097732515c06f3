"""Fingerprints: by which experts, and whole models, are told to be the same in another process, or another run."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moeprobe.findings.weights import ExpertWeights
from moeprobe.routers.duplicates import sample_of
from moeprobe.routers.experts import each_expert
from moeprobe.routers.find import Site, find_sites
from moeprobe.routers.sizes import Sizes
from moeprobe.routers.wrapped import named_parameters


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Dtype and CRC-32 of the bits of one expert, of a sample of them where it is large; '' where they are not read."""
    total = sum(tensor.numel() for tensor in tensors.values())
    value, dtypes = 0, set()
    for name in sorted(tensors):
        if tensors[name].is_meta:
            return ""
        dtypes.add(str(tensors[name].dtype).removeprefix("torch."))
        value = zlib.crc32(_bytes(sample_of(tensors[name].detach().reshape(-1), total)), value)
    return f"{'+'.join(sorted(dtypes))}:{value:08x}"


def fingerprints(site: Site, count: int) -> ExpertWeights:
    """Checksums and sizes alone of ``count`` experts, or why they cannot be read."""
    sizes, checksums = Sizes(), []
    try:
        for tensors in each_expert(site, count):
            sizes.add(tensors)
            checksums.append(checksum(tensors))
    except ValueError as error:
        return ExpertWeights(reason=str(error))
    return ExpertWeights(rms=sizes.value(), checksums=checksums)


def checksum_beside(model: nn.Module) -> str | None:
    """The same of all parameters that are neither gate nor expert; None where some are not in memory."""
    parts = [part for site in find_sites(model) for part in (site.router, site.experts) if part is not None]
    left_out = {id(parameter) for part in parts for parameter in part.parameters()}
    rest = {name: one for name, one in named_parameters(model) if id(one) not in left_out}
    if any(parameter.is_meta for parameter in rest.values()):
        return None
    told = " ".join(f"{name}={checksum({name: rest[name]})}" for name in sorted(rest))
    return f"{zlib.crc32(told.encode()):08x}"


def _bytes(tensor: Tensor) -> bytes:
    found: bytes = tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return found
