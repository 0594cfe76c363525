"""Experts: anything that reads noise and image off a noisy state."""
