"""A tiny, seeded model of every MoE family of transformers, and what its experts are really given."""
