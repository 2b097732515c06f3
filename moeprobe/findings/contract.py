"""Contract: what ran against what should have run."""

from moeprobe.findings.plain import Plain


class Contract(Plain):
    """What ran against what should have run, as numbers of tokens; differences within rounding are not counted.

    Of ``ran`` (row, expert) pairs that experts executed, ``misplaced`` are beyond those of the router's choice;
    both are 0 where the experts could not be watched one by one. Of ``executed`` tokens, ``not_returned`` had an
    expert run that the router did not return and ``other_weights`` had weights that are not the router's. Of
    ``chosen`` tokens, ``other_choice`` had other experts than the rule gives for the recorded logits,
    ``other_choice_unbiased`` than it gives without its selection bias, and ``outside_groups`` an expert outside the
    best groups. Of ``weighed`` tokens, ``other_weighting`` had other weights, relative to each other, than the
    scores give, and ``other_weighting_biased`` than the scores with their bias give. None where the rule has no
    such part, or is not known.
    """

    ran: int = 0
    misplaced: int = 0
    executed: int
    not_returned: int
    other_weights: int
    chosen: int
    other_choice: int | None
    other_choice_unbiased: int | None
    outside_groups: int | None
    weighed: int
    other_weighting: int | None
    other_weighting_biased: int | None
