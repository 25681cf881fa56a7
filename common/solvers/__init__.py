"""Time grids, step rules and the loops that run them; nothing here knows what is being solved."""
