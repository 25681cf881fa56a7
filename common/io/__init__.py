"""Files: atomic writes, the log of metrics, results, rows of samples, pictures, progress."""
