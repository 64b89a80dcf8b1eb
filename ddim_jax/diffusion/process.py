"""The forward process, its posterior, and one step of the reverse process (section 3 and 4 of the paper).

    q(x_t | x_0) = N(sqrt(a_t) x_0, (1 - a_t) I)                                                                 Eq. 4
    q(x_s | x_t, x_0) = N(sqrt(a_s) x_0 + sqrt(1 - a_s - std^2) (x_t - sqrt(a_t) x_0) / sqrt(1 - a_t), std^2 I)    Eq. 7
    f(x_t) = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t)                                                               Eq. 9
    x_s = sqrt(a_s) f(x_t) + sqrt(1 - a_s - std^2) eps + std z                                                   Eq. 12
    std = eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s)                                                    Eq. 16

with a = alpha_bar, s < t any two steps. Steps `t`, `s` are whole numbers 0..T, as scalars or as [B], one for each example
of x [B, ...]. Steps, eta and std are checked where their values are known, which inside compiled code they are not.
"""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.diffusion.schedule import Schedule


class Gaussian(NamedTuple):
    """A normal distribution with the same standard deviation in every dimension of an example."""

    mean: jax.Array  # [B, ...]
    std: jax.Array  # scalar or [B, 1, ...]


class Prediction(NamedTuple):
    """What a network says of x_t: both halves of x_t = signal_scale x0 + noise_scale eps."""

    x0: jax.Array  # [B, ...]
    eps: jax.Array  # [B, ...]


EpsFn = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, ...], t [B]) -> eps [B, ...]
Predict = Callable[[jax.Array, jax.Array], Prediction]  # (x [B, ...], t [B]) -> Prediction


def _at(table: np.ndarray, t, like):
    """table[t], in float64 on the host; with `like`, in its precision (float32 or more) and shaped to multiply it."""
    if _is_known(t):
        t = np.asarray(t)
        if not np.issubdtype(t.dtype, np.integer) or np.any((t < 0) | (t >= len(table))):
            raise ValueError(f"steps must be whole numbers from 0 to {len(table) - 1}, the length of the schedule; got {t}")
    if like is None:
        return table[t] if isinstance(t, np.ndarray) else jnp.asarray(table)[t]
    values = jnp.asarray(table, np.promote_types(like.dtype, np.float32))[t]
    return jnp.expand_dims(values, tuple(range(values.ndim, like.ndim))) if values.ndim else values


def _library(x):
    """NumPy for its own arrays and numbers, which stay float64 on the host; JAX's for its own."""
    return jnp if isinstance(x, jax.Array) else np


def _sqrt(square):
    """Square root of a difference that rounding may have taken just below 0."""
    return _library(square).sqrt(_library(square).maximum(square, 0))


def _is_known(value) -> bool:
    return not isinstance(value, jax.core.Tracer)


# The scales of the equations above. Without `like` they are float64 numbers for the tables of a solver; with `like`, an
# array x [B, ...], they are in its precision and shaped to multiply it.


def signal_scale(schedule: Schedule, t, like=None):
    """sqrt(a_t), the weight of x_0 in x_t."""
    return _at(np.sqrt(schedule.alpha_bar), t, like)


def noise_scale(schedule: Schedule, t, like=None):
    """sqrt(1 - a_t), the weight of the noise in x_t."""
    return _at(np.sqrt(1 - schedule.alpha_bar), t, like)


def transition_std(schedule: Schedule, t, s, like=None):
    """sqrt(1 - a_t / a_s), the noise that DDPM's chain adds from s up to t (Eq. 3); the paper's sigma-hat (D.3)."""
    signal_t, signal_s = signal_scale(schedule, t, like), signal_scale(schedule, s, like)
    noise_t, noise_s = noise_scale(schedule, t, like), noise_scale(schedule, s, like)
    # a_s - a_t, from the smaller pair of scales: near the ends of the schedule the other one is rounded to 1.
    added = _library(signal_s).where(signal_s < noise_s, signal_s**2 - signal_t**2, noise_t**2 - noise_s**2)
    return _sqrt(added) / signal_s


def step_std(schedule: Schedule, t, s, eta=1.0, like=None):
    """The paper's sigma of the step t -> s (Eq. 16): 0 at eta = 0 (DDIM), DDPM's posterior at eta = 1.

    Raises ValueError if eta is negative or above sqrt((1 - a_t) / (1 - a_t / a_s)), where sigma^2 would exceed 1 - a_s.
    """
    ratio = noise_scale(schedule, s, like) / noise_scale(schedule, t, like)
    std = eta * ratio * transition_std(schedule, t, s, like)
    if all(map(_is_known, (t, s, eta))):
        if np.any((np.asarray(s) > np.asarray(t)) & (np.asarray(eta) > 0)):
            raise ValueError(f"eta is {eta} for steps from {t} up to {s}: upwards, which is encoding, there is no noise to add")
        random = np.asarray(s) > 0  # into x_0 itself sigma is 0 at any eta
        limit = np.min(noise_scale(schedule, t) / transition_std(schedule, t, s), where=random, initial=np.inf)
        if not np.all((0 <= np.asarray(eta)) & (np.asarray(eta) <= limit * (1 + 1e-6))):
            raise ValueError(
                f"eta is {eta}; for these steps it must lie between 0 and {limit:.4f}, where sigma^2 reaches 1 - alpha_bar[s]"
            )
    return std


def direction_scale(schedule: Schedule, s, std, like=None):
    """sqrt(1 - a_s - std^2), the weight of the "direction pointing to x_t" in Eq. 12."""
    return _sqrt(noise_scale(schedule, s, like) ** 2 - std**2)


def q_sample(schedule: Schedule, x0, t, eps):
    """x_t [B, ...] from clean x0 [B, ...] and noise eps [B, ...], a draw of q(x_t | x_0) (Eq. 4)."""
    return signal_scale(schedule, t, x0) * x0 + noise_scale(schedule, t, x0) * eps


def predict_x0(schedule: Schedule, x_t, t, eps):
    """The x_0 that x_t and its noise eps imply: f(x_t) of Eq. 9."""
    return (x_t - noise_scale(schedule, t, x_t) * eps) / signal_scale(schedule, t, x_t)


def predict_eps(schedule: Schedule, x_t, t, x0):
    """The noise that x_t and its x0 imply: Eq. 9 solved for eps. Needs t >= 1, since x_0 itself holds no noise."""
    return (x_t - signal_scale(schedule, t, x_t) * x0) / noise_scale(schedule, t, x_t)


def velocity(schedule: Schedule, x0, t, eps):
    """v = sqrt(a_t) eps - sqrt(1 - a_t) x_0, how x_t turns as its angle grows (Salimans & Ho, arXiv 2202.00512, appendix D)."""
    return signal_scale(schedule, t, x0) * eps - noise_scale(schedule, t, x0) * x0


def from_velocity(schedule: Schedule, x_t, t, v):
    """(x_0, eps) from x_t and its velocity: the rotation by which they follow, without a division."""
    signal, noise = signal_scale(schedule, t, x_t), noise_scale(schedule, t, x_t)
    return signal * x_t - noise * v, noise * x_t + signal * v


def reverse_posterior(schedule: Schedule, x_t, x0, t, s, std) -> Gaussian:
    """q(x_s | x_t, x_0), one step down from t >= 1 to s < t, for any std up to sqrt(1 - a_s) (Eq. 7).

    `std` is a number or [B, 1, ...]. Raises ValueError where std is larger than that.
    """
    check_std(std, noise_scale(schedule, s), "it must lie between 0 and sqrt(1 - alpha_bar[s])")
    eps = predict_eps(schedule, x_t, t, x0)
    mean = signal_scale(schedule, s, x_t) * x0 + direction_scale(schedule, s, std, x_t) * eps
    return Gaussian(mean, std)


def forward_posterior(schedule: Schedule, x_s, x0, s, t, std) -> Gaussian:
    """q(x_t | x_s, x_0), one step up from s >= 1 to t > s, by Bayes' rule from Eq. 7 (Eq. 8, of which the paper gives no form).

        mean sqrt(a_t) x_0 + sqrt((1 - a_t) (1 - a_s - std^2)) / (1 - a_s) (x_s - sqrt(a_s) x_0),
        variance std^2 (1 - a_t) / (1 - a_s)

    `std` is that of the step down. The mean is free of x_0, the process Markov, at the std of eta = 1 alone (Eq. 16).
    Raises ValueError where std is larger than sqrt(1 - a_s).
    """
    check_std(std, noise_scale(schedule, s), "it must lie between 0 and sqrt(1 - alpha_bar[s])")
    noise_t, noise_s = noise_scale(schedule, t, x_s), noise_scale(schedule, s, x_s)
    eps = predict_eps(schedule, x_s, s, x0)
    mean = signal_scale(schedule, t, x_s) * x0 + noise_t / noise_s * direction_scale(schedule, s, std, x_s) * eps
    return Gaussian(mean, std * noise_t / noise_s)


def check_std(std, limit, says: str) -> None:
    """Raises ValueError unless `std`, a number or [B, 1, ...], lies between 0 and `limit`, a number or [B], if both are known."""
    if _is_known(std) and _is_known(limit):
        limit = np.reshape(limit, np.shape(limit) + (1,) * (np.ndim(std) - np.ndim(limit)))
        if not np.all((0 <= np.asarray(std)) & (np.asarray(std) <= limit * (1 + 1e-6))):
            raise ValueError(f"std is {std}; {says} = {limit}")


def ddim_step(schedule: Schedule, x_t, eps, t, s, eta=0.0, noise=None):
    """One step t -> s of the generative process (Eq. 12): returns (x_s, the predicted x_0), both [B, ...].

    For reading, and for loops of your own; `sampling.sample` runs whole tables of such steps. Without noise it goes upwards
    too, s > t, which encodes. Raises ValueError where eta, a number, calls for `noise` [B, ...] (standard normal) and there
    is none, or is past its limit (see `step_std`).
    """
    if noise is None and not (_is_known(eta) and np.all(np.asarray(eta) == 0)):
        raise ValueError(f"eta is {eta}, so the step is random: pass noise, standard normal and of shape {x_t.shape}")
    x0 = predict_x0(schedule, x_t, t, eps)
    std = 0.0 if noise is None else step_std(schedule, t, s, eta, x_t)
    x_s = signal_scale(schedule, s, x_t) * x0 + direction_scale(schedule, s, std, x_t) * eps
    return (x_s if noise is None else x_s + std * noise), x0


def number_from_zero(network) -> Callable:
    """network (x, step) with steps 0..T-1, as every published one has, to a function (x, t) of the paper's t.

    At t = 0, where nothing was trained and encoding begins, it asks at t = 1 (the paper leaves this open).
    """
    return lambda x, t: network(x, jnp.maximum(t, 1) - 1)


def from_eps(schedule: Schedule, eps_fn: EpsFn) -> Predict:
    """A predictor from a function that predicts the noise (Eq. 9). Raises ValueError where x_T holds no signal at all."""
    if schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "alpha_bar[T] is 0 (zero terminal SNR): from pure noise no x_0 follows, so eps prediction cannot start there"
        )

    def predict(x, t):
        eps = eps_fn(x, t)
        return Prediction(predict_x0(schedule, x, t, eps), eps)

    return predict


def from_x0(schedule: Schedule, x0_fn: EpsFn) -> Predict:
    """A predictor from a function that predicts x_0. At t = 0, where x is x_0, its answer serves for eps alone, as at t = 1."""

    def predict(x, t):
        x0, clean = x0_fn(x, t), _clean(t, x)
        return Prediction(jnp.where(clean, x, x0), predict_eps(schedule, x, jnp.maximum(t, 1), x0))

    return predict


def from_v(schedule: Schedule, v_fn: EpsFn) -> Predict:
    """A predictor from a function that predicts the velocity. At t = 0 its answer serves for eps alone, as at t = 1."""

    def predict(x, t):
        x0, eps = from_velocity(schedule, x, jnp.maximum(t, 1), v_fn(x, t))
        return Prediction(jnp.where(_clean(t, x), x, x0), eps)

    return predict


PREDICTORS = {"eps": from_eps, "x0": from_x0, "v": from_v}


def make_predictor(schedule: Schedule, network: EpsFn, prediction: str) -> Predict:
    """A predictor from a network (x [B, ...], t [B]) -> [B, ...] that says what `prediction` names: "eps", "x0" or "v".

    Raises ValueError for another name, and as `from_eps` does.
    """
    if prediction not in PREDICTORS:
        raise ValueError(f"prediction is {prediction!r}; expected one of {', '.join(PREDICTORS)}")
    return PREDICTORS[prediction](schedule, network)


def _clean(t, x) -> jax.Array:
    """Whether t = 0: [B, 1, ...], to choose between arrays like x [B, ...]."""
    return jnp.reshape(jnp.asarray(t) == 0, jnp.shape(t) + (1,) * (x.ndim - jnp.ndim(t)))


def map_x0(schedule: Schedule, predict: Predict, change: Callable[[jax.Array], jax.Array]) -> Predict:
    """The predictor with change(x_0) for x_0, and eps derived again from it, so that the two still make up x_t."""

    def changed(x, t):
        raw = predict(x, t)
        x0 = change(raw.x0)
        noise = noise_scale(schedule, t, x)
        moved = signal_scale(schedule, t, x) * (raw.x0 - x0) / jnp.where(noise == 0, 1, noise)
        return Prediction(x0, raw.eps + jnp.where(noise == 0, 0, moved))  # x_0 itself (t = 0) holds no noise to change

    return changed


def clip_x0(schedule: Schedule, predict: Predict, low: float = -1.0, high: float = 1.0) -> Predict:
    """The predictor with x_0 clipped to [low, high]; DDPM's code does so, the paper's at sigma-hat alone."""
    return map_x0(schedule, predict, lambda x0: jnp.clip(x0, low, high))
