"""Ways to compare the mask before with the mask after."""
