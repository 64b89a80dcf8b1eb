"""diffusers' scheduler_config.json, of its DDIM and DDPM schedulers, as config.diffusion and config.sampling, and back.

What the two libraries mean by an option, where it is not plain:
    num_train_timesteps  our T. Their steps are 0..T-1, ours 1..T with 0 for clean data; the network is asked for theirs.
    timestep_spacing     our spacing of that name. 'leading' and 'trailing' visit the same steps where their number S divides T,
                         'linspace' where S is even: halves round to even, which are others counted from 0 than from 1.
                         Elsewhere its 'leading' cuts the schedule short, and at some S its 'trailing' is off by one at some
                         steps (T = 1000: S = 48) or visits a step -1 besides (S = 61). Its DDIM steps always go down by T // S,
                         which with 'trailing' where S does not divide T, and with 'linspace' at any S but 1 and T, is beside
                         the step that it visits next. Ours arrive there.
    steps_offset         shifts 'leading', which only models that were trained so want: no counterpart.
    set_alpha_to_one     False ends at alpha_bar[1], so with noise left: no counterpart.
    clip_sample          our clip, in [-1, 1] alone. We derive eps again from the clipped x_0, as their DDPM does and their
                         DDIM with use_clipped_model_output=True.
    variance_type        of DDPM: fixed_small is eta = 1, fixed_large the paper's sigma-hat.
"""

from ddim_jax import configuration
from ddim_jax.common.text import shown
from ddim_jax.configuration import Config

_COMMON = dict(  # every option with its default, which a file may leave out
    num_train_timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="linear",
    trained_betas=None,
    clip_sample=True,
    clip_sample_range=1.0,
    prediction_type="epsilon",
    thresholding=False,
    dynamic_thresholding_ratio=0.995,  # of thresholding, and so is the next
    sample_max_value=1.0,
    timestep_spacing="leading",
    steps_offset=0,
    rescale_betas_zero_snr=False,
    tensor_format="pt",  # of files from 2022, and so is the next; neither means anything
    timestep_values=None,
)
_DEFAULTS = {
    "DDIMScheduler": _COMMON | dict(set_alpha_to_one=True),
    "DDPMScheduler": _COMMON | dict(variance_type="fixed_small"),
}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_SPACINGS = ("leading", "trailing", "linspace")
_VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}
_COSINE = dict(offset=0.008, max_beta=0.999)


def from_diffusers(fields: dict, source: str) -> tuple[dict, dict]:
    """(config.diffusion, config.sampling) of a scheduler_config.json.

    Raises ValueError, naming every option that has no counterpart.
    """
    kind = fields.get("_class_name")
    if kind not in _DEFAULTS:
        raise ValueError(f"{source} describes a {shown(kind)}; expected one of {', '.join(_DEFAULTS)}")
    given = {name: value for name, value in fields.items() if not name.startswith("_")}
    option = _DEFAULTS[kind] | given
    stray = _no_counterpart(option) | (given.keys() - _DEFAULTS[kind].keys())
    if stray:
        listed = ", ".join(f"{name}={shown(option[name])}" for name in sorted(stray))
        raise ValueError(f"{source} asks for what has no counterpart here: {listed}")

    betas = dict(beta_start=option["beta_start"], beta_end=option["beta_end"])
    num_steps, schedule = option["num_train_timesteps"], option["beta_schedule"]
    if option["trained_betas"] is not None:
        diffusion = dict(schedule="betas", num_steps=len(option["trained_betas"]), betas=list(option["trained_betas"]))
    elif schedule == "squaredcos_cap_v2":
        diffusion = dict(schedule="cosine", num_steps=num_steps, **_COSINE)
    else:
        diffusion = dict(schedule=schedule, num_steps=num_steps, **betas)
    diffusion["prediction"] = _PREDICTIONS[option["prediction_type"]]
    diffusion.update(zero_terminal_snr=option["rescale_betas_zero_snr"], categories=0)

    sampling = dict(steps=50, spacing=option["timestep_spacing"], eta=0.0, clip=option["clip_sample"], count=64, dtype="float32")
    if kind == "DDPMScheduler":
        sampling.update(steps=diffusion["num_steps"], eta=1.0, solver="ddpm", variance=_VARIANCES[option["variance_type"]])
    return diffusion, sampling


def _no_counterpart(option: dict) -> set[str]:
    """The names of options whose values mean something that is not to be had here."""
    ours = {
        "beta_schedule": option["trained_betas"] is not None
        or option["beta_schedule"] in ("linear", "scaled_linear", "squaredcos_cap_v2"),
        "prediction_type": option["prediction_type"] in _PREDICTIONS,
        "thresholding": not option["thresholding"],
        "clip_sample_range": not option["clip_sample"] or option["clip_sample_range"] == 1,
        "timestep_spacing": option["timestep_spacing"] in _SPACINGS,
        "steps_offset": option["steps_offset"] == 0 or option["timestep_spacing"] != "leading",
        "set_alpha_to_one": option.get("set_alpha_to_one", True),
        "variance_type": option.get("variance_type", "fixed_small") in _VARIANCES,
    }
    return {name for name, fits in ours.items() if not fits}


def to_diffusers(config: Config) -> dict:
    """The scheduler_config.json of our configuration.

    Its steps and eta are arguments of diffusers' pipelines, and not of its schedulers. Quadratic spacing is unknown there:
    'leading' stands in for it, which also never visits T.
    """
    diffusion, sampling = config.diffusion.to_dict(), config.sampling.to_dict()
    fields = {
        "num_train_timesteps": diffusion["num_steps"],
        "prediction_type": {ours: theirs for theirs, ours in _PREDICTIONS.items()}[diffusion["prediction"]],
        "rescale_betas_zero_snr": diffusion["zero_terminal_snr"],
        "timestep_spacing": sampling["spacing"] if sampling["spacing"] in _SPACINGS else "leading",
        "clip_sample": sampling["clip"],
        **_betas(config),
    }
    if sampling.get("solver") != "ddpm":
        return {"_class_name": "DDIMScheduler", **fields, "set_alpha_to_one": True}
    return {"_class_name": "DDPMScheduler", **fields, "variance_type": f"fixed_{sampling['variance']}"}


def _betas(config: Config) -> dict:
    """The options that name our noise schedule, and where none does, its betas themselves."""
    diffusion = config.diffusion.to_dict()
    ends = {name: diffusion[name] for name in ("beta_start", "beta_end") if name in diffusion}
    if diffusion["schedule"] in ("linear", "scaled_linear") and len(ends) == 2:
        return {"beta_schedule": diffusion["schedule"], **ends}
    if diffusion["schedule"] == "cosine" and _COSINE.items() <= diffusion.items():
        return {"beta_schedule": "squaredcos_cap_v2"}
    if diffusion["schedule"] == "betas":
        return {"trained_betas": list(diffusion["betas"])}
    plain = Config({"diffusion": diffusion | dict(zero_terminal_snr=False)})
    alpha_bar = configuration.make_schedule(plain).alpha_bar
    return {"trained_betas": (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()}
