"""Experiments of `diffmatch_jax`."""
