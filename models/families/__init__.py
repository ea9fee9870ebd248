"""The model families, one file each; each writes the program of its forward pass."""
