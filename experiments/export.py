"""Writes the averaged weights of a training run as one safetensors file, bfloat16, with their configuration and SHA-256.

python -m experiments.export --workdir=runs/digits --output=digits.safetensors
"""

from absl import app, flags, logging

from ddim_jax.inference import weights

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.", required=True)


def main(_):
    logging.set_verbosity(logging.ERROR)  # Orbax tells a great deal
    weights.save(_OUTPUT.value, weights.from_workdir(_WORKDIR.value))
    print(f"wrote {_OUTPUT.value} and {_OUTPUT.value}.sha256")


if __name__ == "__main__":
    app.run(main)
