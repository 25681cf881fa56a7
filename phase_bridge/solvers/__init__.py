"""Every solver by its name: which paths it solves, its degree, and its table for given times."""
