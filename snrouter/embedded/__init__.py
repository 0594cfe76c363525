"""The embedded default: specs, recipes and weights."""
