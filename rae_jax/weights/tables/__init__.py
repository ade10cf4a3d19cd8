"""One weight table per model."""
