"""Image pairs with ground truth, read from the layouts in which they are published, and made from photographs.

`catalogue.open_datasets("oxford:DIR,stereo,warps")` opens them by name; every reader is an ordinary function, too.
"""
