"""Floor 1: a language model you can look into."""
