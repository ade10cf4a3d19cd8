"""Denoisers: what stage 2 trains."""
