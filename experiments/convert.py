"""python -m experiments.convert: the command of ddim_jax/commands/convert.py, as a checkout has it."""

from ddim_jax.commands import convert

if __name__ == "__main__":
    convert.run()
