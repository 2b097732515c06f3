"""Write docs/families.md: every MoE family of the installed transformers, run and measured.

python scripts/families.py
"""

import sys
from pathlib import Path

import transformers

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.zoo.facts import HEAD, NOTHING, row  # noqa: E402
from tests.zoo.zoo import ZOO  # noqa: E402

PAGE = ROOT / "docs" / "families.md"

_TEXT = """# Families

What moeprobe measures on every MoE family of transformers {version}. Each row is a tiny seeded model that was run:
nothing in it is recited. Made by `python scripts/families.py`; the tests measure every row again.

- **recorded**: *exact* means that rows, experts, weights and logits are, bit for bit, what the experts received or
  executed, seen by replacing their forward passes: in float32 and bfloat16, with padding on the right and on the
  left. The tests hold the same for gradients, `inference_mode`, `generate()` and eager, batched_mm and grouped_mm.
- **sites**: routers that a text reaches, of those that there are.
- **score**, **weights**, **factor**, **bias**, **groups**: the rule that reproduces the recorded weights and choice.
  *none fits*: neither softmax, sigmoid nor sqrtsoftplus explains the weights (Phi-3.5-MoE's sparsemixer). A softmax
  over the chosen logits and a renormalised softmax over all are the same. Groups are ranked by their best member (max)
  or by the sum of the two best; where no score is negative, filling groups that are left out with 0 or with minus
  infinity gives the same choice.
- **on the output**: a factor on the experts' output that the weights do not hold; ? where the block does something
  else to it (a norm, another width, a sum that is divided).
- **in bfloat16**: dtypes after `from_pretrained(dtype=bfloat16)`; ? where a step does not run inside the router.

{cases} cases of {families} families; {exact} exact{rest}.

{table}
"""


def main() -> None:
    """Measure and write."""
    rows = [row(case) for case in ZOO]
    others = [f"{cells[0]}: {cells[2]}" for cells in rows if cells[2] != "exact"]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *(line(cells) for cells in rows)]
    PAGE.write_text(
        _TEXT.format(
            version=transformers.__version__,
            cases=len(rows),
            families=len({case.family for case in ZOO}),
            exact=len(rows) - len(others),
            rest="".join(f"; {other}" for other in others),
            table="\n".join(lines),
        ),
        encoding="utf-8",
    )


def line(cells: list[str]) -> str:
    """A row of the table."""
    return "| " + " | ".join(cell or NOTHING for cell in cells) + " |"


if __name__ == "__main__":
    main()
