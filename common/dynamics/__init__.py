"""How noise is added to data and how a network's output is read: paths, conversions and preconditioning."""
