"""Commands beyond training, one file each: measures, results, tables."""
