"""Pictures of masks: queries downward, keys to the right, one cell a rectangle of pairs."""
