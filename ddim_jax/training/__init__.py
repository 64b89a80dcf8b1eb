"""Training: the state and its step, the loop with its hooks, checkpoints that resume to the same bits."""
