"""python -m experiments.distill: the command of ddim_jax/commands/distill.py, as a checkout has it."""

from ddim_jax.commands import distill

if __name__ == "__main__":
    distill.run()
