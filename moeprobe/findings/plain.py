"""The base of everything that is saved."""

from pydantic import BaseModel, ConfigDict


class Plain(BaseModel):
    """A frozen record of plain numbers and names.

    Unknown keys are refused. Non-finite numbers survive JSON as the strings ``"NaN"``, ``"Infinity"`` and
    ``"-Infinity"``; only the configuration of the outermost model counts in pydantic, so every noun has it.
    ``None`` means *not measured*; it never stands for zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", allow_inf_nan=True)
