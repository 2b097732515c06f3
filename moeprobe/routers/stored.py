"""Stored dtypes: in which dtype the checkpoint file holds a selection bias, before loading casts it."""

import re
from collections.abc import Mapping

from moeprobe.checkpoint.headers import TensorHeader
from moeprobe.findings.router import Bias
from moeprobe.routers.find import layer_of
from moeprobe.routers.gate import Gate

_BIAS = re.compile(r"(gate|router|moe|mlp|ffn|mixer).*bias", re.IGNORECASE)
_SHORT = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def with_stored_dtypes(gate: Gate, headers: Mapping[str, TensorHeader]) -> Gate:
    """The gate with the stored dtype of its selection bias, where exactly one tensor of the file can be it.

    Checkpoints name the tensor differently from the module (DeepSeek-V4: ``ffn.gate.bias``), so it is found by
    its layer, its shape [score columns] and a name that ends in bias.
    """
    bias = gate.router.selection_bias
    if bias is None:
        return gate
    found = {
        header.dtype
        for name, header in headers.items()
        if layer_of(name) == gate.router.layer and tuple(header.shape) == (len(bias.values),) and _BIAS.search(name)
    }
    if len(found) != 1:
        return gate
    stored = _SHORT.get(found.pop())
    fact = Bias(name=bias.name, dtype=bias.dtype, stored_dtype=stored, values=bias.values)
    return gate.with_router(gate.router.model_copy(update={"selection_bias": fact}))
