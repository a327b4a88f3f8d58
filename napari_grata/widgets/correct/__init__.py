"""Correcting: paint on the mask after, and let the model learn from it."""
