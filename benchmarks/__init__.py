"""Speed and overheads of this code: run in a checkout by `python -m benchmarks`; results are in `benchmarks/results`."""
