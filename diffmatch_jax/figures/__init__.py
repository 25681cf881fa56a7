"""Figures, from result files alone."""
