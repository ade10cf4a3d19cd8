"""Generated images: making and saving them."""
