"""Acting along a lens's directions: what else would have done the same (`Steer`, `Swap`, `Ablate` are in models)."""
