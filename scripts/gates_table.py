"""Write docs/gates.md: every system that the source documents name, its gate measured where it can be run.

python scripts/gates_table.py            # write
python scripts/gates_table.py --check    # exit 1 if the page is not up to date
"""

import re
import sys
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from moeprobe import Router  # noqa: E402
from moeprobe.findings.result import write_text  # noqa: E402
from moeprobe.findings.router import Declared  # noqa: E402
from moeprobe.routers.fit import fit_weights  # noqa: E402
from scripts.gate_systems import CLAIMS, SYSTEMS, System, logits  # noqa: E402
from tests.zoo.case import build  # noqa: E402
from tests.zoo.compare import recorded  # noqa: E402
from tests.zoo.facts import NOTHING, facts  # noqa: E402
from tests.zoo.zoo import ZOO  # noqa: E402

PAGE = ROOT / "docs" / "gates.md"
HEAD = ("system", "score", "weights", "bias", "groups", "shared", "experts", "balance", "established by", "source")

_TEXT = """# Gates

The systems that the source documents of this project name. *score*, *weights*, *bias*, *groups* and *shared* are
measured
where *established by* says so; the others, and always *experts* and *balance*, which a forward pass cannot show, are as
the source tells them. Made by `python scripts/gates_table.py`, and a test runs everything again.

- **family run**: a tiny seeded model of the family in transformers {version} was run, and the rule is the one that
  reproduces its routing weights and its choice (as in [families.md](families.md)). How many groups there are is
  that tiny model's; *+* stands between the kinds of layers, or the variants, of a family.
- **reference gate run**: `moeprobe/gates` has the gate as its paper defines it; transformers has none. The score
  function
  and the norm were fitted to its output.
- **read**: from the source alone. *not checked*: it was not looked up.

*as scored*: the weights are the scores themselves; *renormalised*: divided by their sum over the chosen experts. A
softmax
over the chosen logits alone is a renormalised softmax. A bias takes part in the choice, never in the weights.

{table}

## Where the source documents are wrong

Each statement is held against the table when this page is made; one that turned out to be true would stop it.

{claims}

Statements about the mathematics of gates (what sqrt(softplus) does to small differences, what a bias does under a
softmax, in which direction a bias moves and where it settles, how many ties there are) are in
[science.md](science.md), section 0, and can be tried on any
checkpoint with `moeprobe gates`.
"""


def page() -> str:
    """Measure, and give the text of the page.

    Raises:
        ValueError: a statement that is listed as wrong holds.

    """
    rows = {system.name: row(system) for system in SYSTEMS}
    for claim in CLAIMS:
        if claim.holds(rows[claim.system]):
            raise ValueError(f"listed as wrong, but the table says so too: {claim.text}")
    families = (ROOT / "docs/families.md").read_text(encoding="utf-8")
    counted = {"biased": len(_with_bias(families)), "families": len(_families(families))}
    claims = "\n".join(f"- *{claim.text}*: {claim.truth.format(**counted)}." for claim in CLAIMS)
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(cells[name] for name in HEAD) + " |" for cells in rows.values()]
    return _TEXT.format(version=transformers.__version__, table="\n".join(lines), claims=claims)


def row(system: System) -> dict[str, str]:
    """Every cell of a system's row."""
    told = {"system": system.name, "experts": system.sizes, "balance": system.balance, "source": _linked(system.source)}
    if system.cases:
        routers = [router for name in system.cases for router in _routers(name)]
        found, how = facts(routers), f"family run ({', '.join(system.cases)})"
    elif system.gate is not None:
        found, how = _fitted(system), "reference gate run"
    else:
        assert system.told is not None
        found = dict(zip(("score", "weights", "bias", "groups", "shared"), system.told, strict=True))
        how = "read"
    return told | found | {"established by": how}


def _routers(name: str) -> list[Router]:
    case = next(case for case in ZOO if case.name == name)
    recording, _, unlike = recorded(case, build(case))
    assert not unlike, unlike
    return recording.routers


def _fitted(system: System) -> dict[str, str]:
    assert system.gate is not None
    given = logits()
    decision = system.gate(given)
    fit = fit_weights(given, decision.experts, decision.weights, torch.float32, Declared())
    assert fit is not None
    assert fit.renormalised is not None
    return {
        "score": fit.function,
        "weights": "renormalised" if fit.renormalised else "as scored",
        "bias": NOTHING,
        "groups": NOTHING,
        "shared": system.shared,
    }


def _families(text: str) -> set[str]:
    return {cells[1].partition(":")[0] for cells in _cells(text)}


def _with_bias(text: str) -> set[str]:
    """Families of docs/families.md with a selection bias in one of their cases."""
    return {cells[1].partition(":")[0] for cells in _cells(text) if "bias" in cells[_BIAS]}


_BIAS = 10
"""Column of the selection bias in docs/families.md, counted with the empty cell before the first bar."""


def _cells(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][_BIAS] == "bias", rows[0]
    return rows[1:]


def _linked(source: str) -> str:
    return re.sub(r"\b(\d{4}\.\d{5})\b", r"[\1](https://arxiv.org/abs/\1)", source)


def main() -> int:
    """Write, or check."""
    check = "--check" in sys.argv[1:]
    stale = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page()
    if stale:
        print(f"{'not up to date' if check else 'written'}: {PAGE.relative_to(ROOT)}")
        if not check:
            write_text(PAGE, page())
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
