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


class Busiest(Plain):
    """The expert that the most rows of a hash table name, and the share of the rows that do."""

    expert: int
    share: float


class NormGain(Plain):
    """The gain of a norm: path of its module, root mean square (None if not finite), share of positive entries."""

    name: str
    rms: float | None
    positive: float


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
    tried. ``rms``: name of a matrix -> [experts] root mean square of its entries, zero only where all are, None where
    they are not finite; ``shared`` the same for the matrices of the shared expert, by their names in the block.
    ``checksums`` [experts]: dtype and CRC-32 of the bits that the cosine looks at.
    """

    reason: str = ""
    identical: list[list[int]] = []
    nearest: list[int] = []
    cosine: list[float] = []
    coupling: float | None = None
    tie: RowTie | None = None
    untied: str = ""
    foreign: ForeignTie | None = None
    rms: dict[str, list[float | None]] = {}
    shared: dict[str, float | None] = {}
    checksums: list[str] = []


class HashTable(Plain):
    """Integrity of ``tid2eid`` [vocabulary, k]: which experts each token id goes to.

    Faults are counted in the rows that a text can reach: those of the embedding's ``vocabulary`` ids that the tokenizer
    gives, or all of them where ``reached`` (their number) is None: the ids are not known, or every row is sound.
    ``tail``: all faulty rows are the last so many of these. ``missing`` ids of a text have no row. In the other rows
    that the embedding has, ``spare`` of them, ``spare_faults`` are faulty; ``spare_only`` are experts that only they
    name.
    """

    rows: int
    vocabulary: int
    out_of_range: int
    rows_with_repeats: int
    constant: bool
    all_zero: bool
    unreachable: list[int]
    reached: int | None = None
    tail: int = 0
    missing: int | None = None
    spare: int = 0
    spare_faults: int = 0
    spare_only: list[int] = []
    busiest: Busiest | None = None
