"""A trained network at work: its weights, samples drawn in batches over the devices, and pictures of what it does."""
