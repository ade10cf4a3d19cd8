"""Frozen image encoders whose tokens are the features of an autoencoder."""
