"""Names that only codes, and what they are read with, have; no torch is imported to tell."""

import re
from collections.abc import Iterator

OF_CODES = re.compile(
    r"(?:^|(?<=\.))"
    r"(weight_(packed|scale|scale_inv|scale_2|global_scale|zero_point|shape|g_idx|blocks|scales|format|amax)"
    r"|qscale_weight|qweight|qzeros|scales|g_idx|q?biases|SCB|pre_quant_scale"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+|_data|_scale|_shift)"
    r"|W_q|_?weight_qdata|weight:\w+)$"
)
"""Names that no layer gives to anything but the codes of its weight and what they are read with."""
OF_INPUTS = re.compile(
    r"(?:^|(?<=\.))((input|output|activation|act|[kqv])_(global_)?scale|qscale_act|(input|output)_(zero_point|amax))$"
)
"""Names of what the inputs are quantised with; a weight does not need it."""
_OF_TENSOR = re.compile(
    r"^(?P<whole>.+?)(_(blocks|scales?|scale_inv|scale_2|packed|shape|zero_point)"
    r"|\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+))$"
)
"""The same for a tensor that is no module's ``weight``, as stacked experts are (``gate_up_proj_blocks``)."""


def belongs_to_codes(name: str) -> bool:
    """Whether a tensor of this name is part of a quantised matrix, never a tensor of its own."""
    return OF_CODES.search(name) is not None or OF_INPUTS.search(name) is not None


def plain_name(name: str) -> tuple[str, str]:
    """The name of the weight that a tensor of codes belongs to, and the end by which it differs; else both as given."""
    for pattern in (OF_CODES, OF_INPUTS):
        if (found := pattern.search(name)) is not None:
            return f"{name[: found.start()]}weight", found.group()
    return name, ""


def wholes(name: str, *, inputs: bool = True) -> Iterator[tuple[str, str]]:
    """Names of the quantised tensors that this one may be a part of, each with the part of ``name`` before its own end.

    Args:
        name: of a stored tensor.
        inputs: whether what the inputs are quantised with counts as a part of the weight.

    >>> list(wholes("mlp.experts.0.up_proj.qweight"))
    [('mlp.experts.0.up_proj.weight', 'mlp.experts.0.up_proj.')]

    """
    for pattern in (OF_CODES, OF_INPUTS) if inputs else (OF_CODES,):
        if (found := pattern.search(name)) is not None:
            yield f"{name[: found.start()]}weight", name[: found.start()]
    if name.endswith((".scale", ".scale_inv")):
        owner = name.rpartition(".")[0]
        yield f"{owner}.weight", f"{owner}."
    if (match := _OF_TENSOR.match(name)) is not None:
        yield match["whole"], match["whole"]
