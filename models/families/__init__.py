"""The model families, one module each, which writes the program of its forward pass."""
