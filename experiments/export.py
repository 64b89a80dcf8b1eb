"""python -m experiments.export: the command of ddim_jax/commands/export.py, as a checkout has it."""

from ddim_jax.commands import export

if __name__ == "__main__":
    export.run()
