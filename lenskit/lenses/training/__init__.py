"""Training a tuned lens: the loss, the steps, what is remembered of them, and where an interrupted one goes on."""
