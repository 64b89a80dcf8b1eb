"""How good samples are: distances between sets of them."""
