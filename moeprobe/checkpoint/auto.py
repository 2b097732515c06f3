"""Which auto class of transformers loads a checkpoint: by transformers' own mappings and the config's architectures."""

from typing import Any

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


def model_class(checkpoint: Checkpoint, trust_remote_code: bool) -> tuple[Any, Any, bool]:
    """Config, auto class, and whether code of the checkpoint is run (never if transformers has its own).

    The class that saved the weights, wherever transformers lists it: some model types have a text-only class or a
    bare model besides. Where the config does not say, or names a class that transformers does not list, the first
    language model of this model type.

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
                return config, getattr(hf, name), True
    for name, mapping in (_LANGUAGE | _HEADS | _BARE).items():
        if checkpoint.architecture in _made(getattr(hf, mapping, {}), config):
            return config, getattr(hf, name), code
    for name, mapping in (_LANGUAGE | _BARE).items():
        if _made(getattr(hf, mapping, {}), config):
            return config, getattr(hf, name), code
    raise CheckpointError(
        f"transformers has no language model for the model type {checkpoint.model_type!r} "
        f"of {checkpoint.source}; moeprobe cannot load it."
    )


def _made(mapping: Any, config: Any) -> list[str]:
    """Names of the model classes that a mapping makes of this config."""
    if type(config) not in mapping:
        return []
    made = mapping[type(config)]
    return [model.__name__ for model in (made if isinstance(made, tuple | list) else [made])]
