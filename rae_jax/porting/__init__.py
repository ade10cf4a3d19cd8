"""Published files to work folders and back, and what is in any of them."""
