"""Along paths: single ways backwards through features, heads and embeddings, and how they are written."""
