"""What a checkpoint must hold, and whether its files hold it: nothing is loaded and nothing runs."""
