"""What each feature does on a corpus: one pass gathers it, a folder keeps it, and it is looked up without a model."""
