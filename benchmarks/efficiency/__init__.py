"""Is sigmoid gating more sample efficient than softmax gating? The experiment of 2405.13997, to be run again."""
