"""The faults that the benchmark plants, one file for each kind of damage."""
