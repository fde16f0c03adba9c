"""J-space: a state as few words, each with its weight, over the directions of a lens."""
