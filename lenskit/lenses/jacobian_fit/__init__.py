"""Fitting a Jacobian lens: the exact rows of a passage, their running means, and where an interrupted fit goes on."""
