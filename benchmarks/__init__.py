"""Speed and overheads of this code: run in a checkout by `python -m benchmarks`; results in `benchmarks/results`."""
