"""Images from where they are kept to host batches."""
