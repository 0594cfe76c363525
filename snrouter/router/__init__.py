"""Routes: which expert runs at which noise level."""
