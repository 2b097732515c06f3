"""Which auto class of transformers loads a checkpoint: by transformers' own mappings and the config's architectures."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from moeprobe.checkpoint.open import Checkpoint, has_native_class
from moeprobe.errors import CheckpointError

_LANGUAGE = {
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoModelForMultimodalLM": "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
}
"""Auto class -> its mapping: what predicts tokens, the most common first; composite models read text alone."""
_HEADS = {
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING",
}
"""What reads text and predicts something else: taken only where the config names such a class."""
_BARE = {"AutoModel": "MODEL_MAPPING"}


@dataclass(frozen=True)
class Choice:
    """How a checkpoint is loaded.

    ``code`` says whether code of the checkpoint is run (never if transformers has its own). ``left_out`` names the
    parts that are not loaded, where only a part of the checkpoint can be called with text.
    """

    config: Any
    auto_class: Any
    code: bool = False
    left_out: tuple[str, ...] = ()


def choose_class(checkpoint: Checkpoint, trust_remote_code: bool) -> Choice:
    """The class that saved the weights, wherever transformers lists it; a type may have others, too.

    Where the config does not say, or names a class that transformers does not list, it is the first language model
    of this model type. Where that class has no forward pass (it only joins a model that reads to one that speaks),
    it is the first part of it that has one.

    Raises:
        CheckpointError: transformers has no class for this model type that reads text.

    """
    import transformers as hf

    code = trust_remote_code and not has_native_class(checkpoint.model_type)
    config = hf.AutoConfig.from_pretrained(str(checkpoint.folder), trust_remote_code=code, local_files_only=True)
    if code:
        own = checkpoint.config.get("auto_map", {})
        for name in (*_LANGUAGE, *_HEADS, *_BARE):
            if name in own:
                return Choice(config, getattr(hf, name), code=True)
    found = _listed(_LANGUAGE | _HEADS | _BARE, config, checkpoint.architecture) or _listed(_LANGUAGE | _BARE, config)
    if found:
        return Choice(config, getattr(hf, found), code)
    parts = [part for part in getattr(config, "sub_configs", {}) if getattr(config, part, None) is not None]
    for part in parts:
        found = _listed(_LANGUAGE, getattr(config, part))
        if found:
            others = tuple(other.removesuffix("_config") for other in parts if other != part)
            return Choice(getattr(config, part), getattr(hf, found), left_out=others)
    raise CheckpointError(
        f"transformers has no language model for the model type {checkpoint.model_type!r} "
        f"of {checkpoint.source}; moeprobe cannot load it."
    )


def _listed(mappings: dict[str, str], config: Any, architecture: str | None = None) -> str | None:
    """The first auto class that makes a model with a forward pass of this config: ``architecture``, if one is given."""
    import transformers as hf

    for name, mapping in mappings.items():
        models = getattr(hf, mapping, {})
        made = models.get(type(config), ())
        for model in made if isinstance(made, tuple | list) else [made]:
            if model.forward is not nn.Module.forward and architecture in (None, model.__name__):
                return name
    return None
