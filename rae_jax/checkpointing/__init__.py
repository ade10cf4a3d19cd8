"""Checkpoints of whole train states, parts of them, and the folder that a run lives in."""
