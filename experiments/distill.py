"""Halves a trained network's sampling steps, stage by stage, by progressive distillation (arXiv 2202.00512).

    python -m experiments.distill --config=configs/demo_distilled.py --workdir=runs/distilled

Each stage trains a student, which begins as its teacher, in a folder of its own, WORKDIR/steps_N: a run like any other, to sample
from with --steps=N --spacing=trailing. The same command again goes on where it stopped.
"""

import functools
import pathlib

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from ddim_jax import configuration
from ddim_jax.diffusion.distillation import distillation_loss
from ddim_jax.diffusion.process import number_from_zero
from ddim_jax.diffusion.schedule import subsequence
from ddim_jax.inference import weights
from ddim_jax.inference.pictures import training_grid
from ddim_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration to distil.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs, one for each stage.", required=True)


def make_loss(config, num_student_steps: int):
    """The objective of one stage, for `train`: the parameters of the teacher are what it is given."""
    if config.diffusion.categories:
        raise ValueError("config.diffusion.categories is set: distillation is of networks with Gaussian noise")
    if config.training.min_snr_gamma:
        raise ValueError("config.training.min_snr_gamma is set: distillation has weights of its own, max(SNR, 1); set it to 0")
    unet = configuration.make_unet(config)
    tau = subsequence(config.diffusion.num_steps, 2 * num_student_steps, "trailing")

    def loss_fn(schedule, network, x0, t, keys, label, given):
        eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(keys)
        predictor = functools.partial(configuration.make_predictor, config)
        teacher = predictor(number_from_zero(lambda x, step: unet.apply({"params": given}, x, step, label)))
        return distillation_loss(schedule, predictor(network), teacher, tau, x0, t, eps)

    return loss_fn


def main(_):
    logging.set_verbosity(logging.ERROR)  # Orbax tells a great deal
    config = _CONFIG.value
    params = weights.initial(config)
    if params is None:
        raise app.UsageError("config.training.initial_weights names no teacher; give its weights, or the folder of its run")
    for steps in config.distillation.student_steps:
        stage = config.copy_and_resolve_references()
        stage.sampling.update(steps=steps, spacing="trailing", eta=0.0)
        workdir = pathlib.Path(_WORKDIR.value) / f"steps_{steps}"
        state = train(stage, workdir, training_grid(stage), lambda: params, make_loss(stage, steps), given=params)
        if state.step < stage.training.steps:
            raise SystemExit(f"stopped at step {state.step} of the stage of {steps} steps; the same command goes on from there")
        params = state.ema
        print(f"{workdir}: a student of {steps} steps")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
