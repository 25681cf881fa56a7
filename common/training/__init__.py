"""Training: one state, one step and one loop for every method and any number of devices (start at `run`)."""
