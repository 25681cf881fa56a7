"""AGM (Chen et al., ICLR 2024): generative modelling in phase space. Not in this release yet."""
