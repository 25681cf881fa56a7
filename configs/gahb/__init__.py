"""Experiments on blind denoisers."""
