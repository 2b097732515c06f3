"""Measurements of moeprobe itself. ``python benchmarks/detectors.py`` writes docs/detector-accuracy.md."""
