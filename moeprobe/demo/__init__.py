"""The bundled checkpoint, and the faults that can be planted in a copy of it."""
