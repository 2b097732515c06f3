"""``python -m moeprobe`` is the command ``moeprobe``."""

from moeprobe.cli import run

run()
