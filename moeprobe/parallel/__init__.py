"""Parallel: several processes, started by torchrun or accelerate, that make one result together."""
