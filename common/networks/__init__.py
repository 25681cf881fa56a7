"""Layers for every method whose plain form is slow somewhere."""
