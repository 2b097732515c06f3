"""How it was measured: texts, precision, versions, recipe, and the command to repeat it."""

import json

import yaml

from moeprobe.findings.evidence import Probe
from moeprobe.findings.result import Result
from moeprobe.reporting.document import Document, Heading, Listing, folded, joined, table
from moeprobe.reporting.text import code, plain
from moeprobe.reporting.words import MISSING, number, plural

_VERSIONS = ("moeprobe", "transformers", "torch", "python")


def method(result: Result) -> Document:
    """Tables of what ran and on what, the command, and the recipe folded."""
    ran, model = result.environment, result.model
    facts = {
        "model": code(model.source),
        "revision": code(model.revision) if model.revision else "not known",
        "dtype": plain(model.dtype),
        "device": plain(ran.device),
        "experts": plain(ran.experts_implementation) if ran.experts_implementation else MISSING,
        **({"weights": f"streamed, one {ran.streamed} at a time"} if ran.streamed else {}),
        "versions": plain(", ".join(f"{name} {getattr(ran, name)}" for name in _VERSIONS)),
        "platform": plain(ran.platform),
        **({"processes": number(ran.processes)} if ran.processes > 1 else {}),
        "started": f"{plain(ran.started)}, took {number(ran.seconds)} s",
    }
    probe = result.evidence.probe
    recipe = json.loads(result.model_dump_json(include={"recipe"}))["recipe"]
    return joined(
        Heading(2, "How it was measured"),
        table([{"": name, "this run": text} for name, text in facts.items()]),
        _texts(probe) if probe else "No texts were read: nothing ran through the model.",
        _loss(result),
        joined("To repeat it:", Listing(ran.command, "console")),
        folded("Settings, and where each came from", _settings(result)),
        folded("Recipe", (Listing(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "yaml"),)),
    )


def _settings(result: Result) -> Document:
    return table(
        [{"setting": code(one.name), "value": _value(one.value), "from": plain(one.origin)} for one in result.settings]
    )


def _value(value: str | int | float | list[str] | None) -> str:
    if isinstance(value, list):
        return ", ".join(map(code, value)) or MISSING
    return code(value) if isinstance(value, str) else number(value)


def _texts(probe: Probe) -> Document:
    cut = f"; {plural(probe.truncated, 'document')} cut at {number(probe.max_length)} tokens" if probe.truncated else ""
    rows = [
        {
            "source": plain(source),
            "documents": number(count),
            "tokens": number(probe.tokens_by_source.get(source)),
        }
        for source, count in probe.sources.items()
    ]
    total = f"{plural(probe.documents, 'document')} and {plural(probe.tokens, 'token')}"
    return joined(f"Texts: {code(probe.name)}, {total} from {plural(len(rows), 'source')}{cut}.", table(rows))


def _loss(result: Result) -> str:
    measured = result.evidence.experiments
    if measured is None or measured.loss is None:
        return "The loss was not measured."
    tokens = plural(measured.loss_tokens, "token")
    return f"Loss on these texts: {number(measured.loss, 4)} nats per token over {tokens}."
