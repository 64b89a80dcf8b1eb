"""python -m experiments.sample: the command of ddim_jax/commands/sample.py, as a checkout has it."""

from ddim_jax.commands import sample

if __name__ == "__main__":
    sample.run()
