"""Representation Autoencoders and the latent diffusion transformers trained on them, in JAX."""

__version__ = "0.1.0"
