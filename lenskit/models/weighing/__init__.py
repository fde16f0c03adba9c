"""How a model's weights are found, and shown as views."""
