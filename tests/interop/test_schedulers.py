"""scheduler_config.json and our configuration mean the same steps: diffusers' own schedulers are the oracle."""

import json
import warnings

import diffusers
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import torch

from ddim_jax import configuration
from ddim_jax.diffusion import process, sampling, schedule, solvers
from ddim_jax.interop import schedulers

DDIM, DDPM = {"_class_name": "DDIMScheduler"}, {"_class_name": "DDPMScheduler"}


def imported(fields):
    diffusion, sampling = schedulers.from_diffusers(fields, "scheduler_config.json")
    return ml_collections.ConfigDict(dict(diffusion=diffusion, sampling=sampling))


def theirs(fields):
    fields = dict(fields)
    return getattr(diffusers, fields.pop("_class_name")).from_config(fields)


BETAS = np.linspace(0.001, 0.3, 12).tolist()
SCHEDULES = [
    dict(),
    dict(num_train_timesteps=100, beta_start=0.001, beta_end=0.2),
    dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    dict(beta_schedule="squaredcos_cap_v2", num_train_timesteps=200),
    dict(trained_betas=BETAS, num_train_timesteps=12),
    dict(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
]


@pytest.mark.parametrize("kind", [DDIM, DDPM])
@pytest.mark.parametrize("options", SCHEDULES, ids=str)
def test_alpha_bar(kind, options):
    config = imported(kind | options)
    got = configuration.make_schedule(config)
    # float32 there, float64 here: a product of 1000 factors is good to 1000 roundings of 6e-8.
    np.testing.assert_allclose(got.alpha_bar[1:], theirs(kind | options).alphas_cumprod, rtol=1e-4, atol=1e-7)
    again = schedulers.to_diffusers(config)
    np.testing.assert_allclose(theirs(again).alphas_cumprod, theirs(kind | options).alphas_cumprod, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 10, 50, 1000])
def test_spacing(spacing, steps):
    config = imported(DDIM | dict(timestep_spacing=spacing))
    scheduler = theirs(DDIM | dict(timestep_spacing=spacing))
    scheduler.set_timesteps(steps)
    tau = schedule.subsequence(1000, steps, config.sampling.spacing)
    if spacing == "linspace" and steps == 1:
        assert list(scheduler.timesteps) == [0] and list(tau) == [0, 1000]  # one step from pure noise: we begin at the noise
    else:
        np.testing.assert_array_equal(tau[:0:-1] - 1, scheduler.timesteps)


OUTPUTS = torch.randn(10, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # what a network might say


def our_samples(config, x, steps, variance=None):
    """Our sampler, with a network whose answers are OUTPUTS, one after the other."""
    made = configuration.make_schedule(config)
    tau = schedule.subsequence(made.num_steps, steps, config.sampling.spacing)
    numbers = jnp.asarray(tau[:0:-1] - 1)  # as the network is asked for them
    network = lambda x, step: jnp.asarray(OUTPUTS.numpy())[jnp.argmax(numbers == jnp.ravel(step)[0])]
    predict = process.make_predictor(made, process.number_from_zero(network), config.diffusion.prediction)
    predict = process.clip_x0(made, predict) if config.sampling.clip else predict
    table = solvers.ddim(made, tau, 0.0) if variance is None else solvers.ddpm(made, tau, variance)
    assert variance is None or not np.any(table.noise[-1])
    return sampling.trajectory(predict, table._replace(noise=0 * table.noise), jnp.asarray(x.numpy())).x


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_steps(prediction, clip, spacing):
    """use_clipped_model_output is what makes diffusers derive eps again from the clipped x_0."""
    fields = DDIM | dict(prediction_type=prediction, clip_sample=clip, timestep_spacing=spacing, beta_end=0.005)
    scheduler, x = theirs(fields), OUTPUTS[9]
    scheduler.set_timesteps(10)
    path = [x]
    for i, t in enumerate(scheduler.timesteps):
        path.append(scheduler.step(OUTPUTS[i], t, path[-1], use_clipped_model_output=True).prev_sample)
    np.testing.assert_allclose(our_samples(imported(fields), x, 10), np.stack(path), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_ddpm_steps(variance_type, monkeypatch):
    """The means of its steps with clipping, and the spread of the noise that it adds."""
    fields = DDPM | dict(variance_type=variance_type, clip_sample=True)
    config, scheduler, x = imported(fields), theirs(fields), OUTPUTS[9]
    assert (config.sampling.steps, config.sampling.solver, config.sampling.eta) == (1000, "ddpm", 1.0)
    scheduler.set_timesteps(10)

    def run(noise):
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: torch.full_like(x, noise))
        path = [x]
        for i, t in enumerate(scheduler.timesteps):
            path.append(scheduler.step(OUTPUTS[i], t, path[-1]).prev_sample)
        return np.stack(path)

    got = our_samples(config, x, 10, config.sampling.variance)
    np.testing.assert_allclose(got, run(0.0), rtol=1e-4, atol=1e-4)
    made = configuration.make_schedule(config)
    std = solvers.ddpm(made, schedule.subsequence(1000, 10, "leading"), config.sampling.variance).noise
    np.testing.assert_allclose(std[0], (run(1.0) - run(0.0))[1].mean(), rtol=1e-3)


@pytest.mark.parametrize(
    "kind, option, named",
    [
        (DDIM, dict(thresholding=True), "thresholding=True"),
        (DDIM, dict(clip_sample_range=2.0), "clip_sample_range=2.0"),
        (DDIM, dict(steps_offset=1), "steps_offset=1"),
        (DDIM, dict(set_alpha_to_one=False), "set_alpha_to_one=False"),
        (DDIM, dict(prediction_type="flow"), "prediction_type='flow'"),
        (DDIM, dict(timestep_spacing="karras"), "timestep_spacing='karras'"),
        (DDIM, dict(beta_schedule="sigmoid"), "beta_schedule='sigmoid'"),
        (DDIM, dict(variance_type="fixed_small"), "variance_type='fixed_small'"),  # DDPM's alone
        (DDPM, dict(variance_type="learned_range"), "variance_type='learned_range'"),
        (DDPM, dict(variance_type="fixed_large_log"), "variance_type='fixed_large_log'"),
        (DDPM, dict(use_karras_sigmas=True, steps_offset=1), "steps_offset=1, use_karras_sigmas=True"),
        (DDIM, dict(shift=3.0), "shift=3.0"),
    ],
)
def test_an_option_without_counterpart_is_named(kind, option, named):
    with pytest.raises(ValueError, match=f"scheduler_config.json asks for what has no counterpart here: {named}$"):
        schedulers.from_diffusers(kind | option, "scheduler_config.json")


@pytest.mark.parametrize(
    "option", [dict(clip_sample=False, clip_sample_range=2.0), dict(steps_offset=1, timestep_spacing="trailing")]
)
def test_an_option_that_diffusers_itself_ignores_is_no_fault(option):
    schedulers.from_diffusers(DDIM | option, "scheduler_config.json")


def test_another_scheduler_is_refused():
    with pytest.raises(ValueError, match="describes a 'PNDMScheduler'; expected one of DDIMScheduler, DDPMScheduler"):
        schedulers.from_diffusers({"_class_name": "PNDMScheduler"}, "scheduler_config.json")


@pytest.mark.parametrize("kind", [DDIM, DDPM])
def test_every_option_that_diffusers_writes_is_known(kind):
    """With a new option in diffusers this fails, so that somebody decides what it means here."""
    scheduler = theirs(kind)
    written = json.loads(scheduler.to_json_string())
    with warnings.catch_warnings(action="error"):
        config = imported(written)
    assert schedulers.from_diffusers(schedulers.to_diffusers(config), "x") == schedulers.from_diffusers(written, "x")


def test_defaults_are_those_of_diffusers():
    for kind in (DDIM, DDPM):
        written = json.loads(theirs(kind).to_json_string())
        ours = schedulers._DEFAULTS[kind["_class_name"]]
        assert {name: ours[name] for name in written if not name.startswith("_")} == {
            name: value for name, value in written.items() if not name.startswith("_")
        }
