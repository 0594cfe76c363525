"""Which route is best."""
