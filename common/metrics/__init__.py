"""Measures of image quality and similarity; arrays in, arrays out."""
