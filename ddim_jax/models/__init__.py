"""Networks, and the pure operations that they are made of."""
