"""Where models come from: folders, the hub, GGUF files, the demo model."""
