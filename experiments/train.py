"""python -m experiments.train: the command of ddim_jax/commands/train.py, as a checkout has it."""

from ddim_jax.commands import train

if __name__ == "__main__":
    train.run(example="configs/cifar10.py")
