"""What the tiled backend does with a block of pixels, compiled by Numba."""
