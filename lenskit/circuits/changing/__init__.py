"""Changing: what happens when features are held at something else, in the graph and in the model."""
