"""Decoders from features to pixels."""
