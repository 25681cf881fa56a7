"""What this code costs: run from a checkout with `python -m benchmarks`; results are kept in `benchmarks/results`."""
