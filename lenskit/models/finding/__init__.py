"""How the parts of a model are found in its module tree, and verified."""
