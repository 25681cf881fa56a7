"""The method, from images to flow, in the order of the data: read `matcher.py` first."""
