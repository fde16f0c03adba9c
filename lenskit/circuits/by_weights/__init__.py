"""By weights: what features are to each other whatever the prompt, and on average over a corpus."""
