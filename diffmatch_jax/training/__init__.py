"""Training: the losses of both stages, and of the backbone."""
