"""Floor 2: from a hidden state to a prediction of the next token."""
