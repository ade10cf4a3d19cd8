"""Scores of reconstructions and of generated images."""
