"""Where tuned lenses are found, how they are written, and which model each belongs to."""
