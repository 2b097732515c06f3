"""Detectors: pure functions of Evidence. One file per detector, its docstring is its documentation."""
