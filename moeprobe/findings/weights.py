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


class ExpertWeights(Plain):
    """What the routed experts' own tensors say; ``reason`` why they could not be read, else empty.

    ``identical``: groups of experts that are equal bit for bit. ``nearest`` [experts] the other expert of the
    largest ``cosine`` [experts] between the flattened tensors. ``coupling``: how far the experts answer
    differently to their own gate row than to the rows of others, in standard errors; 0 +- 1 where gate and
    experts are unrelated. ``rms``: name of a matrix -> [experts] root mean square of its entries, zero only where all
    are, None where they are not finite; ``shared`` the same for the matrices of the shared expert, by their names in
    the block.
    """

    reason: str = ""
    identical: list[list[int]] = []
    nearest: list[int] = []
    cosine: list[float] = []
    coupling: float | None = None
    rms: dict[str, list[float | None]] = {}
    shared: dict[str, float | None] = {}


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
