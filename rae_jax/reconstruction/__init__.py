"""Mathematics of stage 1: losses, latent noise and latent statistics."""
