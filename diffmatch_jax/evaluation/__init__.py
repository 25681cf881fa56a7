"""Evaluation: metrics, data sets, corruptions, and the matchers that are compared."""
