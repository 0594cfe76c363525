"""Extension by entry points; imports nothing of ours but errors."""
