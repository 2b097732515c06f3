"""Probes: from texts to batches of tokens in which every row knows its document and its source."""
