"""Rule changes: what differs between two routers before any token is read, facts first."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moeprobe.findings.drift import FactChange, FactName
from moeprobe.findings.router import Groups, Router
from moeprobe.findings.weights import ExpertWeights
from moeprobe.routers.gate import Gate

_FACTOR = 0.02
"""Relative difference up to which two fitted factors are one; they are fitted to weights in bfloat16, too."""


def fact_changes(base: Router, tuned: Router) -> list[FactChange]:
    """The facts of the rule that differ: measured ones, or declared ones where either side was not measured."""
    found: list[tuple[FactName, object, object]] = [("top-k", base.top_k, tuned.top_k)]
    same_score = _same_score(base, tuned)
    if not same_score:
        function = _either(base, tuned, "score_function")
        found.append(("score function", function[0], function[1]))
    renormalised = _either(base, tuned, "renormalised")
    found.append(("renormalisation", _yes(renormalised[0]), _yes(renormalised[1])))
    factors = _either(base, tuned, "scaling_factor")
    if same_score and renormalised[0] == renormalised[1] and not _close(*factors):
        found.append(("scaling factor", _digits(factors[0]), _digits(factors[1])))
    if not _close(base.output_factor, tuned.output_factor):
        found.append(("output factor", _digits(base.output_factor), _digits(tuned.output_factor)))
    found.append(("groups", _groups(base), _groups(tuned)))
    biases = [_has_bias(one) for one in (base, tuned)]
    found.append(("selection bias", _present(biases[0]), _present(biases[1])))
    if all(biases):
        found.append(("place of the bias", base.bias_on, tuned.bias_on))
    return [
        FactChange(name=name, base=str(first), tuned=str(second))
        for name, first, second in found
        if first is not None and second is not None and first != second
    ]


def _either(base: Router, tuned: Router, name: str) -> tuple[object, object]:
    """Both measured values, or both declared ones where a measured one is missing or rounding may have hidden it."""
    measured = getattr(base, name), getattr(tuned, name)
    declared = getattr(base.declared, name), getattr(tuned.declared, name)
    if None in measured:
        return declared
    # In a coarse dtype several rules explain the weights; two configs that say the same settle it.
    dtypes = [one.arithmetic.weights if one.arithmetic else None for one in (base, tuned)]
    if dtypes[0] != dtypes[1] and None not in declared and declared[0] == declared[1]:
        return declared
    return measured


def _same_score(base: Router, tuned: Router) -> bool:
    first, second = _either(base, tuned, "score_function")
    if first == second or first is None or second is None:
        return True
    return second in base.explaining or first in tuned.explaining


def _close(first: object, second: object) -> bool:
    if not isinstance(first, float) or not isinstance(second, float) or min(first, second) <= 0:
        return True
    return abs(math.log(first / second)) <= _FACTOR


def _yes(value: object) -> str | None:
    return None if value is None else "on" if value else "off"


def _digits(value: object) -> str | None:
    return f"{value:.4g}" if isinstance(value, float) else None


def _groups(router: Router) -> str:
    groups: Groups | None = router.groups
    if groups is None or groups.count <= 1 or groups.kept >= groups.count:
        return "none"
    ranked = "the best member" if groups.score == "max" else "the two best members"
    return f"{groups.kept} of {groups.count} groups by {ranked}"


def _present(has: bool) -> str:
    return "present" if has else "none"


def _has_bias(router: Router) -> bool:
    """Whether there is a bias that can move the choice: top-k cannot see one that is the same for all experts."""
    return router.selection_bias is not None and len(set(router.selection_bias.values)) > 1


def same_matrix(base: Gate, tuned: Gate) -> bool | None:
    """Whether the gates' matrices, and hash tables, are equal bit for bit; None where they are not known."""
    if base.table is not None and tuned.table is not None:
        return same_bits(base.table, tuned.table) and same_bits(base.weight, tuned.weight) is not False
    return same_bits(base.weight, tuned.weight)


def same_biases(base: Gate, tuned: Gate) -> bool | None:
    """Whether selection bias and logit bias are equal bit for bit; one that is missing is zero everywhere."""
    pairs = [(base.selection_bias, tuned.selection_bias), (base.logit_bias, tuned.logit_bias)]
    if any(one is not None and one.is_meta for pair in pairs for one in pair):
        return None
    return all(_same_or_zero(first, second) for first, second in pairs)


def _same_or_zero(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None and second is None:
        return True
    if first is None or second is None:
        present = first if first is not None else second
        return present is not None and not bool(present.any())
    return same_bits(first, second) is True


def same_bits(first: Tensor | None, second: Tensor | None) -> bool | None:
    """Whether two tensors hold the same values in the coarser dtype of the two; None where one is not known."""
    if first is None or second is None or first.is_meta or second.is_meta:
        return None
    if first.shape != second.shape:
        return False
    coarser = max((first.dtype, second.dtype), key=_step)
    one, other = (tensor.detach().cpu().to(coarser).double() for tensor in (first, second))
    return bool(torch.equal(one.nan_to_num(), other.nan_to_num()) and torch.equal(one.isnan(), other.isnan()))


def _step(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def changed_experts(base: ExpertWeights | None, tuned: ExpertWeights | None, owners: Sequence[int]) -> int | None:
    """How many of the experts are not, bit for bit, the base's of number ``owners``; None where that is not known."""
    if base is None or tuned is None:
        return None
    pairs = [
        (base.checksums[owner], tuned.checksums[expert])
        for expert, owner in enumerate(owners)
        if expert < len(tuned.checksums) and owner < len(base.checksums)
    ]
    dtypes = {one.partition(":")[0] for pair in pairs for one in pair}
    if not pairs or len(pairs) < len(tuned.checksums) or len(dtypes) != 1 or "" in dtypes:
        return None
    return sum(first != second for first, second in pairs)


def follow(base: ExpertWeights | None, tuned: ExpertWeights | None, owners: Sequence[int]) -> bool | None:
    """Whether the tuned model's experts are those of the base that their gate rows belong to.

    By their bits where both have the same dtype; else by the sizes of their matrices, which must be at least twice as
    near in the order of the rows as otherwise. None where neither tells.
    """
    moved = [(expert, owner) for expert, owner in enumerate(owners) if expert != owner]
    if base is None or tuned is None or not moved:
        return None if moved else True
    changed = changed_experts(base, tuned, owners)
    if changed is not None and (not changed or _elsewhere(base, tuned, owners) > len(owners) / 2):
        return not changed
    # Without experts that are gone, the other order is the old one; else any is as good.
    pruned = len(owners) < max(len(base.checksums), max(owners) + 1)
    others = [(expert, other) for expert, _ in moved for _, other in moved] if pruned else [(e, e) for e, _ in moved]
    near, far = _distance(base, tuned, moved), _distance(base, tuned, others)
    if near is None or far is None or near == far:
        return None
    return True if near < far / 2 else False if far < near / 2 else None


def _elsewhere(base: ExpertWeights, tuned: ExpertWeights, owners: Sequence[int]) -> int:
    """How many experts are, bit for bit, one of the base to which another gate row belongs."""
    known = set(base.checksums)
    return sum(
        one in known and one != base.checksums[owner] for one, owner in zip(tuned.checksums, owners, strict=False)
    )


def _distance(base: ExpertWeights, tuned: ExpertWeights, pairs: Sequence[tuple[int, int]]) -> float | None:
    """Mean absolute logarithm of the ratio of the sizes of matrices of (tuned, base) experts."""
    found = []
    for name, sizes in tuned.rms.items():
        before = base.rms.get(name, [])
        for expert, owner in pairs:
            first = before[owner] if owner < len(before) else None
            second = sizes[expert] if expert < len(sizes) else None
            if first is None or second is None or min(first, second) <= 0:
                return None
            found.append(abs(math.log(first / second)))
    return sum(found) / len(found) if found else None
