"""Merge pretrained diffusion models by routing between them along one shared noise axis."""
