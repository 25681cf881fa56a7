"""DiffMatch (Nam et al., ICLR 2024): dense correspondence as conditional diffusion. Not in this release yet."""
