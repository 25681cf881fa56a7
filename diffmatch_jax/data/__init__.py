"""Training pairs: warps, objects pasted on them, changes of their pictures."""
