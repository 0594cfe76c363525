"""What a network finds in images: the features that sample quality is measured in."""
