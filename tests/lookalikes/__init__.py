"""What looks like a fault and is none: wrapped and compiled models, rows out of reach, every expert chosen."""
