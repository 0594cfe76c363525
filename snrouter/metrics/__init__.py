"""What a merge is measured by."""
