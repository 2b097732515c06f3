"""Checkpoints: from a folder or a hub id to files that were checked, a skeleton, or a loaded model.

``open`` checks without torch, ``headers`` knows where every tensor lies, ``load`` makes the model.
"""
