"""Names that only codes, and what they are read with, have; no torch is imported to tell."""

import re

OF_CODES = re.compile(
    r"(?:^|(?<=\.))(weight_(packed|scale|scale_inv|scale_2|global_scale|zero_point|shape|g_idx|blocks|scales|format)"
    r"|qscale_weight|qweight|qzeros|scales|g_idx|q?biases|SCB|pre_quant_scale"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+|_data|_scale|_shift)"
    r"|W_q|_?weight_qdata|weight:\w+)$"
)
"""Names that no layer gives to anything but the codes of its weight and what they are read with."""
OF_INPUTS = re.compile(
    r"(?:^|(?<=\.))((input|output|activation|act|[kqv])_(global_)?scale|qscale_act|input_zero_point|output_zero_point)$"
)
"""Names of what the inputs are quantised with; a weight does not need it."""


def belongs_to_codes(name: str) -> bool:
    """Whether a tensor of this name is part of a quantised matrix, never a tensor of its own."""
    return OF_CODES.search(name) is not None or OF_INPUTS.search(name) is not None


def plain_name(name: str) -> tuple[str, str]:
    """The name of the weight that a tensor of codes belongs to, and the end by which it differs; else both as given."""
    for pattern in (OF_CODES, OF_INPUTS):
        if (found := pattern.search(name)) is not None:
            return f"{name[: found.start()]}weight", found.group()
    return name, ""
