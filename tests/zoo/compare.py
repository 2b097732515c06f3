"""Compare what moeprobe recorded with the truth: the same rows, experts, weights and logits, bit for bit."""

from typing import Any

import torch
from torch import Tensor, nn

import moeprobe
from moeprobe import Recording
from tests.zoo.case import Case, Taken, Truth, batch
from tests.zoo.truth import taken


def differences(recording: Recording, truth: Truth, keep: dict[str, Tensor]) -> list[str]:
    """One line for every site and call where the recording is not the truth.

    ``keep``: router path -> the rows [rows] bool of the first call that are real tokens; later calls (tokens
    being generated) hold no padding.
    """
    by_path: dict[str, list[moeprobe.Record]] = {path: [] for path in truth}
    for record in recording.records:
        by_path.setdefault(record.router.path, []).append(record)
    found = [f"{path}: recorded, but nothing ran there" for path in by_path if path not in truth]
    for path, calls in truth.items():
        if len(by_path[path]) != len(calls):
            found.append(f"{path}: {len(by_path[path])} records of {len(calls)} calls")
            continue
        for number, (record, true) in enumerate(zip(by_path[path], calls, strict=True)):
            rows = keep[path] if number == 0 else torch.ones(true.chosen.shape[0], dtype=torch.bool)
            found += [f"{path}, call {number}: {what}" for what in _unlike(record, true, rows)]
    return found


def _unlike(record: moeprobe.Record, true: Taken, rows: Tensor) -> list[str]:
    if record.tokens != int(rows.sum()):
        return [f"{record.tokens} rows instead of {int(rows.sum())}"]
    got = taken(record.experts, record.weights, record.logits)
    width = max(got.chosen.shape[1], true.chosen.shape[1])
    unlike = []
    if not torch.equal(_wide(got.chosen, width), _wide(true.chosen[rows], width)):
        unlike.append("other experts")
    elif not torch.equal(_wide(got.weights, width), _wide(true.weights[rows], width)):
        unlike.append("other weights")
    if true.logits is not None and (record.logits is None or not torch.equal(record.logits, true.logits[rows])):
        unlike.append("other logits")
    return unlike


def _wide(table: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(table, (0, width - table.shape[1]))


def recorded(case: Case, model: nn.Module, padding: str = "right") -> tuple[Recording, Truth, list[str]]:
    """Record one forward pass of the case beside its truth."""
    ids, mask = batch(padding)
    with case.truth(model) as truth, moeprobe.record(model) as recording, torch.no_grad():
        model(**arguments(case, model, ids, mask))
    return recording, truth, differences(recording, truth, kept(case, truth, ids, mask))


def arguments(case: Case, model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """The inputs of the case, embeddings and images in the dtype of the model."""
    return {
        name: value.to(model.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in case.inputs(ids, mask).items()
    }


def kept(case: Case, truth: Truth, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The real tokens among the rows of every router."""
    inputs = case.inputs(ids, mask)
    types = next((value for name, value in inputs.items() if name.endswith("token_type_ids")), None)
    keep = {}
    for path, calls in truth.items():
        total = calls[0].chosen.shape[0]
        if "tower" in path:
            keep[path] = torch.ones(total, dtype=torch.bool)
            continue
        if types is not None and types.any() and total < mask.numel():
            keep[path] = mask[types.bool() == ("vision" in path)].bool()
            continue
        shown = inputs.get("decoder_attention_mask") if "decoder" in path else inputs.get("attention_mask")
        whole = torch.ones(total, dtype=torch.bool)
        keep[path] = shown.reshape(-1).bool() if shown is not None and shown.numel() == total else whole
    return keep
