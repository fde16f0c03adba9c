"""Files of Jacobian lenses: every published form told apart by what is in it, and two that are written."""
