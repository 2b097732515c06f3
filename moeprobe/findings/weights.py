"""What tensors say without a forward pass: the shape of a gate matrix, and the experts beside it."""

from moeprobe.findings.plain import Plain


class GateShape(Plain):
    """How much a gate matrix [rows, columns] looks like independent random entries (docs/science.md D10).

    ``norm_variation``: standard deviation of the row norms over their mean, sqrt((kurtosis - 1) / (4 columns))
    for random entries. ``largest_singular``: the largest singular value over rms * (sqrt(rows) +
    sqrt(columns)), where that of random entries ends. ``cosine_rms``: root mean square of the cosines between
    rows times sqrt(columns), 1 for random entries. ``kurtosis`` of the entries: 3 Gaussian, 1.8 uniform.
    """

    rows: int
    columns: int
    norm_variation: float
    largest_singular: float
    cosine_rms: float
    kurtosis: float


class Exchange(Plain):
    """Gate rows that fit each other's experts better: ``rows[i]`` belongs to the expert of ``rows[i + 1]``, in a ring.

    ``gain``: by how much a row fits better on average, in standard deviations of the fit of rows to other experts.
    """

    rows: list[int]
    gain: float


class RowTie(Plain):
    """How gate rows and experts belong together, from how every expert answers to every row (docs/science.md D10).

    ``value``: the tie in standard errors, 0 +- 1 where gate and experts are unrelated, whatever its direction.
    ``energy`` and ``mean``: its two parts with their signs, each 0 +- 1; None where all experts answer alike.
    ``owner`` [rows]: the expert of each row in the assignment that fits best. ``gap`` [rows]: how far that pair
    stands above the best other one of its row and its expert. ``lead``: how much better the assignment fits, per row,
    than the best one that shares no pair with it. ``kept``: the fit of the present order over that of the best.
    ``exchanged``: few rows that look exchanged in an order that is right otherwise. ``gap``, ``lead`` and gains are in
    standard deviations of the fit of rows to other experts.
    """

    value: float
    energy: float | None
    mean: float | None
    owner: list[int]
    gap: list[float]
    lead: float
    kept: float
    exchanged: list[Exchange] = []


class ForeignTie(Plain):
    """The ``router`` (path) of another layer whose gate rows have the largest tie to these experts: ``value``."""

    router: str
    value: float


class ExpertWeights(Plain):
    """What the routed experts' own tensors say; ``reason`` why they could not be read, else empty.

    ``identical``: groups of experts that are equal bit for bit. ``nearest`` [experts] the other expert of the
    largest ``cosine`` [experts] between the flattened tensors. ``coupling``: how far the experts answer
    differently to their own gate row than to the rows of others, in standard errors; 0 +- 1 where gate and
    experts are unrelated. ``tie`` says more about it, and ``untied`` why it is not known, else it is empty.
    ``foreign``: where there is none, the gate of another layer without one that fits best; None where no other was
    tried.
    """

    reason: str = ""
    identical: list[list[int]] = []
    nearest: list[int] = []
    cosine: list[float] = []
    coupling: float | None = None
    tie: RowTie | None = None
    untied: str = ""
    foreign: ForeignTie | None = None
