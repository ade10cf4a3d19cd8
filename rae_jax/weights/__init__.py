"""Published weight files to module parameters and back."""
