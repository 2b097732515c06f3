"""Clusters: which documents are counted together, and how much less than independent their tokens tell."""

import torch
from torch import Tensor

CLUSTERS = 256
"""Documents are folded into this many clusters, so that the state does not grow with the probe set."""
_FEW = 30
"""Fewer hits (or misses) than this give no variance between documents worth dividing by."""


def assign(strata: Tensor) -> Tensor:
    """Cluster of each document; no cluster mixes sources as long as there are no more than 256 of them.

    Args:
        strata: [documents] source of each document, 0 to S - 1.

    Returns:
        [documents] int64 in [0, CLUSTERS). The clusters of source s are those with ``cluster % S == s``.

    """
    sources = int(strata.max()) + 1 if strata.numel() else 1
    if sources > CLUSTERS:
        return torch.arange(strata.numel()) % CLUSTERS
    cluster = torch.empty_like(strata)
    for source in range(sources):
        members = torch.nonzero(strata == source).flatten()
        # Source s owns the clusters s, s + S, s + 2 S, ...: CLUSTERS // S of them, dealt out in turn.
        cluster[members] = source + sources * (torch.arange(members.numel()) % (CLUSTERS // sources))
    return cluster


def design_effects(counts: Tensor, tokens: Tensor, sources: int) -> list[float | None] | None:
    """How many tokens of these documents tell as much about an expert's share as one independent token.

    DEFF_e = Var(count_e) / (n p (1 - p)) with n tokens, a share p of which chose e (docs/science.md E4).
    Var(count_e) is
    the variance over the documents of a source, summed over the sources (a stratified cluster sample, Cochran,
    Sampling Techniques, 1977): the mixture of sources is given, the documents stand for others of their kind.
    Lengths differ, so a document of m tokens is compared with m times its source's share and not with the mean
    count.

    Args:
        counts: [clusters, experts] int64 assignments.
        tokens: [clusters] int64.
        sources: number of sources; the clusters of source s are those with ``cluster % sources == s``.

    Returns:
        [experts], None for an expert with too few hits or misses; None where there are no two documents.

    """
    strata = sources if sources <= CLUSTERS else 1
    variance = torch.zeros(counts.shape[1], dtype=torch.float64)
    hits = torch.zeros_like(variance)
    total = 0.0
    for stratum in range(strata):
        size = tokens[stratum::strata].double()
        # A table may name an expert twice for a token, which is still one token.
        seen = torch.minimum(counts[stratum::strata], tokens[stratum::strata, None])[size > 0].double()
        size = size[size > 0]
        if len(size) < 2:
            continue
        share = seen.sum(dim=0) / size.sum()
        off = (seen - size[:, None] * share).square().sum(dim=0)
        variance += off * len(size) / (len(size) - 1)
        hits += seen.sum(dim=0)
        total += float(size.sum())
    if not total:  # one document a source: the variance between sources is the only one there is
        return design_effects(counts, tokens, 1) if strata > 1 else None
    effect = variance / (hits * (1 - hits / total)).clamp_min(1e-300)
    few = (hits < _FEW) | (total - hits < _FEW)
    return [None if skip else value for value, skip in zip(effect.tolist(), few.tolist(), strict=True)]
