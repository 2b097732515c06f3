"""Matrices that a checkpoint stores packed or quantised, made float32 again with their own scales.

One file a format, each in plain torch: a gate is small, and no format's library has to be installed. What a format
cannot be read without is asked for by name, and every shape is held against the others: codes that are not understood
are refused (``UnreadableError``), never judged.
"""
