"""Parts of the synthetic results that are the same in every layer."""

from moeprobe.findings.contract import Contract
from moeprobe.findings.weights import Busiest, ExpertWeights, GateShape, NormGain

CONTRACT = Contract(
    executed=10_000,
    not_returned=0,
    other_weights=0,
    chosen=10_000,
    other_choice=0,
    other_choice_unbiased=4_000,
    outside_groups=0,
    weighed=10_000,
    other_weighting=0,
    other_weighting_biased=10_000,
)
SHAPE = GateShape(rows=16, columns=512, norm_variation=0.2, largest_singular=1.7, cosine_rms=2.0, kurtosis=3.6)
EXPERTS = ExpertWeights(cosine=[0.02, 0.03], nearest=[1, 0], coupling=8.0)
BUSIEST = Busiest(expert=3, share=0.03)
VALUES = {"directions": 15, "distinct": 0.99, "norm": NormGain(name="model.layers.0.norm", rms=0.4, positive=1.0)}
