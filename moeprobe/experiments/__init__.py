"""Experiments: what must touch the running model. Each leaves it bit-identical and returns plain numbers."""
