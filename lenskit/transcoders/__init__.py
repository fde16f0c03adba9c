"""Floor 2: sparse features: transcoders, sparse autoencoders, cross-layer transcoders."""
