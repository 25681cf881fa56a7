"""Experiments on generation by phase-space bridges, and on what they are compared with."""
