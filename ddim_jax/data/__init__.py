"""Examples: where they come from, which ones a step trains on; and the pixels, grids and files that people look at."""
