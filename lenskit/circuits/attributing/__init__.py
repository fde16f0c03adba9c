"""Attributing: how a graph is made, from the replacement model of a prompt to the rows of what reaches what."""
