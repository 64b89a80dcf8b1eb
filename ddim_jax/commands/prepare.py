"""Downloads a TFDS data set and makes it ready for training: python -m experiments.prepare --name=celeb_a --directory=DIR

Needs the extra `ddim_jax[prepare]` (TensorFlow); training then reads the result without it.

A file that cannot be downloaded can be put into DIR/downloads/manual by hand: the error lists names, addresses, sizes and
SHA-256 sums. CelebA lies on Google Drive, which at times refuses. Where you have only its images, unpack img_align_celeba.zip
and train with --config.data.name=folder --config.data.directory=DIR/img_align_celeba, for which nothing is to be prepared.

--name=inception downloads into DIR the weights of the network that FID is computed with (96 MB); that needs no extra.
"""

import os
import pathlib

from absl import flags

from ddim_jax.commands import command
from ddim_jax.data import tfds
from ddim_jax.evaluation.extractors import inception

_NAME = flags.DEFINE_string(
    "name", None, "cifar10, celeb_a, lsun/bedroom, lsun/church_outdoor, ..., or inception.", required=True
)
_DIRECTORY = flags.DEFINE_string("directory", None, "TFDS's data_dir; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.")


def main(_: list[str]) -> None:
    """The command, once its flags are parsed."""
    if _NAME.value == "inception":
        directory = _DIRECTORY.value or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        print(f"the weights of Inception-v3 are in {inception.fetch(pathlib.Path(directory).expanduser())}")
        return
    print(f"preparing {_NAME.value}: files that lie in downloads/manual of the directory are not downloaded (see --help)")
    print(f"{_NAME.value} is ready in {tfds.prepare(_NAME.value, _DIRECTORY.value)}")


def run() -> None:
    """Runs the command line."""
    command.run(main)
