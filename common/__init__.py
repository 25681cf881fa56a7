"""What the three methods share: networks, data, training, checkpoints and figures. Knows arrays, never a method."""
