"""Resume: what an interrupted analysis has done is on the disk, and the same command goes on from there."""
