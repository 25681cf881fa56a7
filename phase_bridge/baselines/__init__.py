"""What one would pick instead of a bridge, on the same networks: flow matching, EDM, and a diffusion in phase space."""
