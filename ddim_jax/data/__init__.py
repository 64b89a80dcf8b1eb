"""Images: where they come from, which ones a step trains on, and the grids and files that people look at."""
