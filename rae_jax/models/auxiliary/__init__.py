"""Networks that only training or scoring needs."""
