"""Data: sources with random access, and batches as a function of the step."""
