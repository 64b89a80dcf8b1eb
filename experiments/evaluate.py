"""python -m experiments.evaluate: the command of ddim_jax/commands/evaluate.py, as a checkout has it."""

from ddim_jax.commands import evaluate

if __name__ == "__main__":
    evaluate.run()
