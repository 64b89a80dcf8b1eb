"""python -m experiments.prepare: the command of ddim_jax/commands/prepare.py, as a checkout has it."""

from ddim_jax.commands import prepare

if __name__ == "__main__":
    prepare.run()
