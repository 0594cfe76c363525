"""Images by name, from libraries or local files."""
