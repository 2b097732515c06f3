"""moeprobe inspects the routing of Mixture-of-Experts checkpoints.

    import moeprobe

    result = moeprobe.analyze("Qwen/Qwen3-30B-A3B")      # a hub id, a folder, or a loaded model
    with moeprobe.record(model) as recording:            # your own model, your own forward passes
        model(**batch)
    for record in recording.records:
        record.router.path, record.experts, record.weights

Names are loaded on first use: ``import moeprobe`` costs neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Evidence": "moeprobe.findings.evidence",
    "Finding": "moeprobe.findings.finding",
    "MoeprobeError": "moeprobe.errors",
    "Recipe": "moeprobe.recipe",
    "Record": "moeprobe.records.record",
    "Recording": "moeprobe.records.recorder",
    "Result": "moeprobe.findings.result",
    "Router": "moeprobe.findings.router",
    "Routing": "moeprobe.routers.routing",
    "analyze": "moeprobe.pipeline",
    "diff": "moeprobe.comparison",
    "record": "moeprobe.records.recorder",
    "register_router": "moeprobe.routers.readers",
}

__all__ = [
    "Evidence",
    "Finding",
    "MoeprobeError",
    "Recipe",
    "Record",
    "Recording",
    "Result",
    "Router",
    "Routing",
    "analyze",
    "diff",
    "record",
    "register_router",
]

if TYPE_CHECKING:
    from moeprobe.comparison import diff
    from moeprobe.errors import MoeprobeError
    from moeprobe.findings.evidence import Evidence
    from moeprobe.findings.finding import Finding
    from moeprobe.findings.result import Result
    from moeprobe.findings.router import Router
    from moeprobe.pipeline import analyze
    from moeprobe.recipe import Recipe
    from moeprobe.records.record import Record
    from moeprobe.records.recorder import Recording, record
    from moeprobe.routers.readers import register_router
    from moeprobe.routers.routing import Routing


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'moeprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
