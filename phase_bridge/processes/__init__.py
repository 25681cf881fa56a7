"""Paths from noise to data, each Gaussian given the data: the posterior mean at one noise level serves all."""
