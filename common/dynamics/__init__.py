"""How a network is fed and read at each noise level: preconditioning."""
