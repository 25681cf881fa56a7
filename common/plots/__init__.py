"""Figure style, report pages and text tables."""
