"""From a source of images to a packed set: what `mixdist pack` does."""
