"""Experiments: one file each, whose docstring is its card (command, hardware, time, expected numbers)."""
