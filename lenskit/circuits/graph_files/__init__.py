"""Graph files: our own form, and the published attribution-graph JSON."""
