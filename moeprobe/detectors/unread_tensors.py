"""MP706 unread-tensors: the checkpoint holds routing that no model reads.

## What it finds

Tensors whose names are those of routers, biases or adapters, for which the model has no place; a second set of weight
files next to the one that is read; an adapter that was never applied.

## Why it matters

transformers leaves out what it has no place for. A selection bias in a checkpoint whose model class has none, a LoRA
that was saved but not merged, or an old `model.safetensors` next to new shards loads without an error, and what is
then checked, and served, is not what was trained.

## How it is measured

Every name in the files is mapped to the tensors of the model class by transformers' own rules, on a skeleton without
weights. What has no place is listed. It is a finding only where nothing explains it and the name looks like routing
(`gate`, `router`, `bias`, `lora_`, `modules_to_save`); layers of multi-token prediction, which transformers leaves out
on purpose, parts that do not read text, and weights in other formats are listed without a finding. For a model type
that transformers does not have, only the files are looked at.

## Limits

None: the fault is exact.

## Known false alarms

Buffers of an old version with *bias* in their name. A folder that holds two complete checkpoints on purpose.

## What to do

Load the checkpoint with the class that has a place for these tensors (`model_type` and `architectures` in
config.json), merge the adapter, or delete what is left over from an earlier save.

## References

transformers 5: `PreTrainedModel.from_pretrained` reports unexpected keys in a log line and goes on;
`_keys_to_ignore_on_load_unexpected` names those that it drops without one.
"""

from moeprobe.detectors.case import Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.findings.evidence import Evidence

NO_PLACE = "tensors named like routing have no place in the model"
SECOND_SET = "weight files lie next to those that are read"

_REMEDIES = {
    NO_PLACE: "Correct model_type and architectures in config.json if another class has a place for them, merge them "
    "if they are an adapter's, or delete them if they are left over",
    SECOND_SET: "Delete the weight files that are out of date, and merge an adapter before checking",
}


class UnreadTensorsLimits(Limits):
    """unread-tensors has no limits."""


class UnreadTensors(Detector[UnreadTensorsLimits]):
    """The checkpoint holds routing that no model reads."""

    name = "unread-tensors"
    code = "MP706"
    Limits = UnreadTensorsLimits

    def judge(self, evidence: Evidence, limits: UnreadTensorsLimits) -> Judgement:
        """One check of the whole checkpoint."""
        case = self.open_model(evidence, limits)
        if evidence.unread is None:
            case.skip("the model was given loaded, without the files that it came from")
            return Judgement.of([case])
        case.weigh()
        for cause, kind in ((NO_PLACE, "tensors"), (SECOND_SET, "files")):
            found = [one for one in evidence.unread if one.kind == kind and one.routing]
            if found:
                case.find(
                    "warning",
                    "; ".join(f"not read: {one.sentence()}, {one.why}" for one in found),
                    where="Checkpoint",
                    quantity=f"unread {kind}",
                    measured=sum(one.count for one in found),
                    cause=cause,
                    remedy=_REMEDIES[cause],
                )
        return Judgement.of([case])
