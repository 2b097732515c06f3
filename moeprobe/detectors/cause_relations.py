"""Which findings can be the consequences of which others, where, and what clears them of it: one table.

A relation names kinds of findings (``cause_kinds.py``), where the consequence shows, further conditions on the two
findings, and the evidence that refutes it (``cause_refuted.py``). A remedy that would do damage
(another size for a branch whose rows are out of order) belongs to a consequence of whatever breaks the router, never to
a cause.
"""

from moeprobe.detectors.cause_kinds import (
    BIAS,
    BIAS_ALWAYS,
    BIAS_ALWAYS_SEEN,
    BIAS_DECIDES,
    BIAS_LOST,
    BIAS_NEVER,
    BIAS_NEVER_SEEN,
    BIAS_OFFSET,
    BIAS_OPPOSED,
    BOUNDARY,
    CHOICE,
    CONTRACT,
    COPIED_ROWS,
    COPIES,
    DEAD,
    DRIFT,
    DRIFT_INHERITED,
    DRIFT_ORDER,
    DRIFT_PARTS,
    DRIFT_RULE,
    DRIFT_TABLE,
    DRIFT_WEIGHTS,
    EDGE,
    EQUAL_ROWS,
    FADED,
    FEW_LEVELS,
    FLAT,
    LESS_EVEN,
    LOW_RANK,
    MISPLACED,
    NAN,
    NAN_OUTPUT,
    NONFINITE_BEFORE,
    NONFINITE_BEHIND,
    NOT_BY_TOKEN,
    NUMERICS,
    ONE_SET,
    ORDER,
    OTHER_CHOICE,
    OVERLOADED,
    ROUNDING,
    ROWS,
    RULE,
    SIZE,
    TABLE,
    TENSORS,
    TOP_ONE,
    UNTRAINED,
    WHOLE_SIZE,
)
from moeprobe.detectors.cause_refuted import (
    cleared_behind_the_boundary,
    cleared_between,
    finite_between,
    silent_between,
    size_of_its_own,
    size_of_the_layers,
)
from moeprobe.detectors.cause_relation import (
    Relation,
    Where,
    among_the_copies,
    not_unreachable,
    other_order,
    same_cause,
    same_direction,
    same_experts,
    severe,
    severe_and_mild,
    unreachable,
    untied,
)

_FLAT = (EQUAL_ROWS, LOW_RANK, FLAT)
_ALWAYS, _NEVER = (BIAS_ALWAYS, BIAS_ALWAYS_SEEN), (BIAS_NEVER, BIAS_NEVER_SEEN)
_BIAS = (BIAS, BIAS_LOST, BIAS_DECIDES, BIAS_OPPOSED, *_ALWAYS, *_NEVER)
_NAN = (NONFINITE_BEFORE, NAN)
_TENSORS = (ROWS, TENSORS)
_MISMATCH = (ORDER, CHOICE)
_CHOOSES = (*_FLAT, ONE_SET, NOT_BY_TOKEN, *_BIAS, LESS_EVEN, *_NAN, NAN_OUTPUT, ROWS, OTHER_CHOICE)
"""What makes a router choose otherwise than it was trained to, whatever its experts are."""
_BREAKS = (
    *(COPIES, COPIED_ROWS, NONFINITE_BEHIND, TABLE, FEW_LEVELS, TENSORS, TOP_ONE, CONTRACT, RULE, FADED, NUMERICS),
    *(*_CHOOSES, DRIFT_TABLE),
)
"""What makes a layer's choice, or what it chooses from, worth nothing."""
_SPOILS = (*_BREAKS, ORDER, CHOICE, UNTRAINED, OVERLOADED, SIZE)
"""What changes what a layer hands on."""

RELATIONS: tuple[Relation, ...] = (
    Relation("copied experts have copied rows", (COPIES,), (EQUAL_ROWS,), Where.HERE, among_the_copies),
    Relation("multiples of few rows have whatever lengths", (LOW_RANK,), (ROWS,), Where.HERE),
    Relation(
        "equal rows and experts have no order",
        (COPIES, COPIED_ROWS, *_FLAT, ONE_SET, NOT_BY_TOKEN),
        (ORDER,),
        Where.HERE,
    ),
    Relation("damaged tensors have no tie", (FEW_LEVELS, ROWS, TENSORS), (ORDER,), Where.HERE, untied),
    # The bias.
    Relation(
        "where no expert is preferred, whatever bias there is decides",
        _FLAT,
        (BIAS_ALWAYS_SEEN, BIAS_NEVER_SEEN, BIAS_DECIDES, LESS_EVEN),
        Where.HERE,
    ),
    Relation(
        "a bias that outweighs the scores gives one set", (*_BIAS, BIAS_OFFSET, LESS_EVEN), (ONE_SET,), Where.HERE
    ),
    Relation(
        "a bias that settles the choice", (BIAS_DECIDES, BIAS_OPPOSED, *_ALWAYS, *_NEVER), (LESS_EVEN,), Where.HERE
    ),
    Relation("a bias that was damaged", (BIAS, BIAS_LOST), (LESS_EVEN,), Where.HERE, severe),
    Relation("favourites push the others out", _ALWAYS, _NEVER, Where.HERE),
    # Numerics.
    Relation("what is not finite", (NONFINITE_BEFORE, NONFINITE_BEHIND), (NAN_OUTPUT,), Where.HERE),
    Relation("what is not finite before the logits", (NONFINITE_BEFORE,), (NAN,), Where.HERE),
    Relation(
        "NaN travels down",
        (*_NAN, NONFINITE_BEHIND, NAN_OUTPUT),
        (NAN, NAN_OUTPUT),
        Where.LATER,
        refuted_by=finite_between,
    ),
    Relation("one underflow, forward and backward", (FADED,), (EDGE,), Where.HERE),
    Relation("a row whose logits underflow is a long one", (FADED, EDGE, NUMERICS), (ROWS,), Where.HERE, severe),
    Relation(
        "where hardly any expert is preferred, rounding decides",
        (*_FLAT, ONE_SET, NOT_BY_TOKEN),
        (ROUNDING,),
        Where.HERE,
    ),
    Relation("another rule shows in a recomputation", (OTHER_CHOICE, CONTRACT), (ROUNDING,), Where.HERE),
    # The rule.
    Relation("another rule shows in the sums", (TOP_ONE, OTHER_CHOICE, CONTRACT), (RULE,), Where.HERE),
    Relation("a router without a gradient stays as it was initialised", (TOP_ONE,), (UNTRAINED,), Where.HERE),
    Relation(
        "one mistake in code or config shows in all layers",
        (TOP_ONE, OTHER_CHOICE, CONTRACT, RULE),
        (TOP_ONE, OTHER_CHOICE, CONTRACT, RULE),
        Where.LATER,
        same_cause,
        silent_between,
    ),
    Relation("one conversion loses the bias of all layers", (BIAS_LOST,), (BIAS_LOST,), Where.LATER),
    # Gate and experts that do not belong together.
    Relation("a broken router has no choice to test", _BREAKS, (CHOICE,), Where.HERE),
    Relation("behind an earlier fault", _SPOILS, (CHOICE,), Where.LATER, refuted_by=cleared_between),
    Relation(
        "layers that changed places spoil both",
        (MISPLACED,),
        (CHOICE,),
        Where.EVERYWHERE,
        refuted_by=cleared_behind_the_boundary,
    ),
    Relation(
        "a wrong size of all layers spoils all choices",
        (WHOLE_SIZE,),
        (CHOICE,),
        Where.EVERYWHERE,
        refuted_by=size_of_the_layers,
    ),
    Relation("rows in another order look random", (ORDER,), (UNTRAINED,), Where.HERE, other_order),
    # The load.
    Relation(
        "a router that is broken has its load from that",
        tuple(kind for kind in (*_CHOOSES, EDGE, NUMERICS, TABLE, UNTRAINED, *_MISMATCH) if kind not in _NEVER),
        (DEAD, OVERLOADED),
        Where.HERE,
        not_unreachable,
    ),
    Relation("experts in no row of the table", (TABLE,), (DEAD,), Where.HERE, unreachable),
    Relation("tokens go where the table names experts", (TABLE,), (OVERLOADED,), Where.HERE),
    Relation("experts whose bias rules them out", _NEVER, (DEAD,), Where.HERE, same_experts),
    Relation("tokens go to the experts that are not ruled out", _NEVER, (OVERLOADED,), Where.HERE),
    # Sizes.
    Relation("a tensor of another size", _TENSORS, (SIZE,), Where.HERE),
    Relation("a branch whose choice is wrong is best made small", _MISMATCH, (SIZE,), Where.HERE),
    Relation(
        "a branch that is broken is best made small",
        (*_BREAKS, EDGE, UNTRAINED, DEAD, OVERLOADED, ROUNDING),
        (SIZE,),
        Where.HERE,
        severe,
    ),
    Relation(
        "a branch of the wrong size swells or starves the residual stream",
        (*_TENSORS, RULE, SIZE),
        (SIZE,),
        Where.LATER,
        severe_and_mild,
        silent_between,
    ),
    Relation(
        "the handover to a broken router is unstable",
        (*_BREAKS, ORDER, CHOICE, EDGE, SIZE),
        (BOUNDARY,),
        Where.HERE,
        severe,
    ),
    Relation("a factor of the config scales all layers", (RULE,), (WHOLE_SIZE,), Where.WHOLE, severe),
    Relation(
        "a branch of the wrong size", (SIZE, *_TENSORS), (WHOLE_SIZE,), Where.WHOLE, same_direction, size_of_its_own
    ),
    Relation("a tensor of the wrong size", _TENSORS, (WHOLE_SIZE,), Where.WHOLE, refuted_by=size_of_its_own),
    Relation(
        "a layer whose choice is wrong is best made small",
        _MISMATCH,
        (WHOLE_SIZE,),
        Where.WHOLE,
        refuted_by=size_of_its_own,
    ),
    Relation(
        "a layer that is broken is best made small",
        (*_BREAKS, MISPLACED, EDGE, UNTRAINED, DEAD, OVERLOADED),
        (WHOLE_SIZE,),
        Where.WHOLE,
        severe,
        size_of_its_own,
    ),
    # Drift from a base.
    Relation("one config changes the rule of all layers", (DRIFT_RULE,), (DRIFT_RULE,), Where.LATER, same_cause),
    Relation("a damaged table is not the base's", (TABLE,), (DRIFT_TABLE,), Where.HERE),
    Relation("rows out of order", _MISMATCH, (DRIFT_ORDER, DRIFT), Where.HERE),
    Relation("a gate that was damaged is not the base's", (*_CHOOSES, FEW_LEVELS, UNTRAINED), (DRIFT,), Where.HERE),
    Relation("another rule gives other weights", (TOP_ONE, OTHER_CHOICE, CONTRACT, RULE), (DRIFT_WEIGHTS,), Where.HERE),
    Relation(
        "what a changed layer hands on",
        (DRIFT_TABLE, DRIFT_RULE, DRIFT_PARTS, DRIFT_ORDER, DRIFT, DRIFT_WEIGHTS, DRIFT_INHERITED),
        (DRIFT_INHERITED,),
        Where.LATER,
    ),
)
