"""The forward process, its posterior, and one step of the reverse process (section 3 and 4 of the paper).

    q(x_t | x_0) = N(sqrt(a_t) x_0, (1 - a_t) I)                                                                 Eq. 4
    q(x_s | x_t, x_0) = N(sqrt(a_s) x_0 + sqrt(1 - a_s - std^2) (x_t - sqrt(a_t) x_0) / sqrt(1 - a_t), std^2 I)    Eq. 7
    f(x_t) = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t)                                                               Eq. 9
    x_s = sqrt(a_s) f(x_t) + sqrt(1 - a_s - std^2) eps + std z                                                   Eq. 12
    std = eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s)                                                    Eq. 16

with a = alpha_bar, s < t any two steps. Steps `t`, `s` are whole numbers 0..T, as scalars or as [B], one for each example
of x [B, ...]; eta and std are numbers, or [B], or [B, 1, ...]. All of them are checked where their values and those of the
schedule are known, which for arguments of compiled code they are not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddim_jax.diffusion.schedule import Array, Schedule, Steps, is_known, library, values


class Gaussian(NamedTuple):
    """A normal distribution with the same standard deviation in every dimension of an example."""

    mean: jax.Array  # [B, ...]
    std: ArrayLike  # a number, or [B, 1, ...]


class Prediction(NamedTuple):
    """What a network says of x_t: both halves of x_t = signal_scale x0 + noise_scale eps."""

    x0: jax.Array  # [B, ...]
    eps: jax.Array  # [B, ...]


EpsFn = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, ...], t [B]) -> eps [B, ...]
Predict = Callable[[jax.Array, jax.Array], Prediction]  # (x [B, ...], t [B]) -> Prediction


def _scale(schedule: Schedule, square: Callable, t: Steps, like: Array | None) -> Any:
    """sqrt(square(alpha_bar[t])): float64 on the host; with `like`, in its precision (float32 or more), shaped to multiply it.

    A schedule that is an argument of compiled code is computed with where it is, in the widest float there is.
    """
    if is_known(t):
        t = np.asarray(t)
        if not np.issubdtype(t.dtype, np.integer) or np.any((t < 0) | (t > schedule.num_steps)):
            raise ValueError(f"steps must be whole numbers from 0 to {schedule.num_steps}, the length of the schedule; got {t}")
    if is_known(schedule.alpha_bar):
        table = np.sqrt(square(values(schedule)))
        if like is None:
            return table[t] if isinstance(t, np.ndarray) else jnp.asarray(table)[t]
        scale = jnp.asarray(table, np.promote_types(like.dtype, np.float32))[t]
    else:
        scale = _sqrt(square(values(schedule)[t]))
        if like is None:
            return scale
        scale = scale.astype(np.promote_types(like.dtype, np.float32))
    return jnp.expand_dims(scale, tuple(range(scale.ndim, like.ndim))) if scale.ndim else scale


def _sqrt(square):
    """Square root of a difference that rounding may have taken just below 0. At 0 its derivative counts as 0, not as infinite."""
    xp = library(square)
    return xp.where(square <= 0, 0, xp.sqrt(xp.where(square <= 0, 1, square)))


def per_example(value: ArrayLike, like: Array, name: str) -> Any:
    """A number, or one for each example of `like` [B, ...], shaped to multiply it: [B] becomes [B, 1, ...].

    Raises ValueError for any other shape; `name` says in it whose.
    """
    if np.ndim(value) == 1 and np.shape(value) == like.shape[:1]:
        return library(value).reshape(value, (-1, *[1] * (like.ndim - 1)))
    if np.ndim(value) in (0, like.ndim) and np.ndim(value) != 1:
        return value
    raise ValueError(
        f"{name} has shape {np.shape(value)} for examples of shape {like.shape}; expected a number, one for each example "
        f"[{like.shape[0]}], or an array of {like.ndim} axes that multiplies them"
    )


def check_shape(found: ArrayLike, expected: ArrayLike, what: str) -> None:
    """Raises ValueError, with both shapes, where `what` was found in another shape than that of the x it is for."""
    if jnp.shape(found) != jnp.shape(expected):
        raise ValueError(f"{what} has shape {jnp.shape(found)}, for x of shape {jnp.shape(expected)}; they must be the same")


# The scales of the equations above. Without `like` they are float64 numbers for the tables of a solver; with `like`, an
# array x [B, ...], they are in its precision and shaped to multiply it.


def signal_scale(schedule: Schedule, t: Steps, like: Array | None = None) -> Any:
    """sqrt(a_t), the weight of x_0 in x_t."""
    return _scale(schedule, lambda alpha_bar: alpha_bar, t, like)


def noise_scale(schedule: Schedule, t: Steps, like: Array | None = None) -> Any:
    """sqrt(1 - a_t), the weight of the noise in x_t."""
    return _scale(schedule, lambda alpha_bar: 1 - alpha_bar, t, like)


def transition_std(schedule: Schedule, t: Steps, s: Steps, like: Array | None = None) -> Any:
    """sqrt(1 - a_t / a_s), the noise that DDPM's chain adds from s up to t (Eq. 3); the paper's sigma-hat (D.3).

    schedule: the noise schedule.
    t, s:     whole numbers 0..T, s <= t: numbers, or arrays of one shape.
    like:     x [B, ...] that the result is to multiply, or None (the default) for float64 on the host.
    """
    signal_t, signal_s = signal_scale(schedule, t, like), signal_scale(schedule, s, like)
    noise_t, noise_s = noise_scale(schedule, t, like), noise_scale(schedule, s, like)
    # a_s - a_t, from the smaller pair of scales: near the ends of the schedule the other one is rounded to 1.
    added = library(signal_s, signal_t).where(signal_s < noise_s, signal_s**2 - signal_t**2, noise_t**2 - noise_s**2)
    return _sqrt(added) / signal_s


def step_std(schedule: Schedule, t: Steps, s: Steps, eta: ArrayLike = 1.0, like: Array | None = None) -> Any:
    """The paper's sigma of the step t -> s (Eq. 16): 0 at eta = 0 (DDIM), DDPM's posterior at eta = 1.

    t, s: whole numbers 0..T, s <= t: numbers, or arrays of one shape.
    eta:  a number, or an array of that shape, or with `like` also [B, 1, ...].
    like: x [B, ...] that the result is to multiply, or None (the default) for float64 on the host.

    Raises ValueError if eta is negative or above sqrt((1 - a_t) / (1 - a_t / a_s)), where sigma^2 would exceed 1 - a_s.
    """
    if is_known(schedule.alpha_bar, t, s, eta):
        _check_eta(schedule, np.asarray(t), np.asarray(s), np.asarray(eta))
    eta = eta if like is None else per_example(eta, like, "eta")
    ratio = noise_scale(schedule, s, like) / noise_scale(schedule, t, like)
    return eta * ratio * transition_std(schedule, t, s, like)


def _check_eta(schedule: Schedule, t: np.ndarray, s: np.ndarray, eta: np.ndarray) -> None:
    t, s = (steps.reshape(steps.shape + (1,) * (eta.ndim - steps.ndim)) for steps in (t, s))
    if np.any((s > t) & (eta > 0)):
        raise ValueError(f"eta is {eta} for steps from {t} up to {s}: upwards, which is encoding, there is no noise to add")
    with np.errstate(divide="ignore", invalid="ignore"):  # into x_0 itself sigma is 0 at any eta
        limit = np.where(s > 0, noise_scale(schedule, t) / transition_std(schedule, t, s), np.inf)
    if not np.all((0 <= eta) & (eta <= limit * (1 + 1e-6))):
        raise ValueError(
            f"eta is {eta}; for these steps it must lie between 0 and {np.min(limit):.4f}, where sigma^2 reaches 1 - alpha_bar[s]"
        )


def direction_scale(schedule: Schedule, s: Steps, std: ArrayLike, like: Array | None = None) -> Any:
    """sqrt(1 - a_s - std^2), the weight of the "direction pointing to x_t" in Eq. 12; sqrt(1 - a_s) itself for the number 0.

    schedule: the noise schedule.
    s:        a whole number 0..T, or an array of them.
    std:      a number, or an array of that shape, or with `like` also [B] or [B, 1, ...].
    like:     x [B, ...] that the result is to multiply, or None (the default) for float64 on the host.
    """
    noise = noise_scale(schedule, s, like)
    if isinstance(std, (int, float)) and std == 0:
        return noise
    std = std if like is None else per_example(std, like, "std")
    return _sqrt(noise**2 - std**2)


def step_weights(schedule: Schedule, s: Steps, std: ArrayLike, like: Array | None = None) -> tuple[Any, Any]:
    """(the weight of x_0, that of eps) in the mean of Eq. 12; the arguments are those of `direction_scale`."""
    return signal_scale(schedule, s, like), direction_scale(schedule, s, std, like)


def step_mean(schedule: Schedule, x0: Array, eps: Array, s: Steps, std: ArrayLike) -> jax.Array:
    """Eq. 12 without its noise: the mean of x_s [B, ...], from both halves of x_t.

    schedule: the noise schedule.
    x0, eps:  [B, ...] each: x_t = signal_scale x0 + noise_scale eps.
    s:        a whole number 0..T, or [B].
    std:      that of the noise that is still to be added: a number, [B] or [B, 1, ...].
    """
    x0_weight, eps_weight = step_weights(schedule, s, std, x0)
    return x0_weight * x0 + eps_weight * eps


def q_sample(schedule: Schedule, x0: Array, t: Steps, eps: Array) -> jax.Array:
    """x_t [B, ...] from clean x0 and noise, a draw of q(x_t | x_0) (Eq. 4).

    schedule: the noise schedule.
    x0:       [B, ...], in [-1, 1] as networks expect it.
    t:        a whole number 0..T, or [B].
    eps:      [B, ...], standard normal.

    Raises ValueError for a t outside the schedule, as all functions with steps do.
    """
    return signal_scale(schedule, t, x0) * x0 + noise_scale(schedule, t, x0) * eps


def predict_x0(schedule: Schedule, x_t: Array, t: Steps, eps: Array) -> jax.Array:
    """The x_0 [B, ...] that x_t and its noise imply: f(x_t) of Eq. 9.

    schedule: the noise schedule.
    x_t:      [B, ...].
    t:        a whole number 0..T, or [B], where alpha_bar is above 0.
    eps:      [B, ...].
    """
    return (x_t - noise_scale(schedule, t, x_t) * eps) / signal_scale(schedule, t, x_t)


def predict_eps(schedule: Schedule, x_t: Array, t: Steps, x0: Array) -> jax.Array:
    """The noise [B, ...] that x_t and its x_0 imply: Eq. 9 solved for eps.

    schedule: the noise schedule.
    x_t:      [B, ...].
    t:        a whole number 1..T, or [B]; at 0 x_t holds no noise.
    x0:       [B, ...].
    """
    return (x_t - signal_scale(schedule, t, x_t) * x0) / noise_scale(schedule, t, x_t)


def velocity(schedule: Schedule, x0: Array, t: Steps, eps: Array) -> jax.Array:
    """v = sqrt(a_t) eps - sqrt(1 - a_t) x_0, how x_t turns as its angle grows: [B, ...].

    (Salimans & Ho, arXiv 2202.00512, appendix D.)

    schedule: the noise schedule.
    x0:       [B, ...].
    t:        a whole number 0..T, or [B].
    eps:      [B, ...].
    """
    return signal_scale(schedule, t, x0) * eps - noise_scale(schedule, t, x0) * x0


def from_velocity(schedule: Schedule, x_t: Array, t: Steps, v: Array) -> tuple[jax.Array, jax.Array]:
    """(x_0, eps) from x_t and its velocity, both [B, ...]: the rotation by which they follow, without a division.

    schedule: the noise schedule.
    x_t:      [B, ...].
    t:        a whole number 0..T, or [B].
    v:        [B, ...].
    """
    signal, noise = signal_scale(schedule, t, x_t), noise_scale(schedule, t, x_t)
    return signal * x_t - noise * v, noise * x_t + signal * v


def reverse_posterior(schedule: Schedule, x_t: Array, x0: Array, t: Steps, s: Steps, std: ArrayLike) -> Gaussian:
    """q(x_s | x_t, x_0), one step down from t >= 1 to s < t, for any std up to sqrt(1 - a_s) (Eq. 7).

    x_t: [B, ...].
    x0:  [B, ...].
    t:   a whole number in 1..T, or [B].
    s:   a whole number below t, or [B].
    std: a number, [B] or [B, 1, ...].

    Raises ValueError where std is negative or larger than sqrt(1 - a_s).
    """
    check_std(std, noise_scale(schedule, s), "it must lie between 0 and sqrt(1 - alpha_bar[s])")
    std = per_example(std, x_t, "std")
    return Gaussian(step_mean(schedule, x0, predict_eps(schedule, x_t, t, x0), s, std), std)


def forward_posterior(schedule: Schedule, x_s: Array, x0: Array, s: Steps, t: Steps, std: ArrayLike) -> Gaussian:
    """q(x_t | x_s, x_0), one step up from s >= 1 to t > s, by Bayes' rule from Eq. 7 (Eq. 8, of which the paper gives no form).

        mean sqrt(a_t) x_0 + sqrt((1 - a_t) (1 - a_s - std^2)) / (1 - a_s) (x_s - sqrt(a_s) x_0),
        variance std^2 (1 - a_t) / (1 - a_s)

    The mean is free of x_0, and the process Markov, at the std of eta = 1 alone (Eq. 16).

    x_s: [B, ...].
    x0:  [B, ...].
    s:   a whole number in 1..T, or [B].
    t:   a whole number above s, or [B].
    std: a number, [B] or [B, 1, ...]: that of the step down, t -> s.

    Raises ValueError where std is negative or larger than sqrt(1 - a_s).
    """
    check_std(std, noise_scale(schedule, s), "it must lie between 0 and sqrt(1 - alpha_bar[s])")
    std = per_example(std, x_s, "std")
    noise_t, noise_s = noise_scale(schedule, t, x_s), noise_scale(schedule, s, x_s)
    eps = predict_eps(schedule, x_s, s, x0)
    mean = signal_scale(schedule, t, x_s) * x0 + noise_t / noise_s * direction_scale(schedule, s, std, x_s) * eps
    return Gaussian(mean, std * noise_t / noise_s)


def check_std(std: ArrayLike, limit: ArrayLike, says: str) -> None:
    """Raises ValueError unless `std` lies between 0 and `limit`, if both are known.

    `std` is a number, [B] or [B, 1, ...], `limit` a number or [B]; `says` is the rest of the message, up to the limit.
    """
    if is_known(std, limit):
        limit = np.reshape(limit, np.shape(limit) + (1,) * (np.ndim(std) - np.ndim(limit)))
        if not np.all((0 <= np.asarray(std)) & (np.asarray(std) <= limit * (1 + 1e-6))):
            raise ValueError(f"std is {std}; {says} = {limit}")


def ddim_step(
    schedule: Schedule, x_t: Array, eps: Array, t: Steps, s: Steps, eta: ArrayLike = 0.0, noise: Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """One step t -> s of the generative process (Eq. 12): returns (x_s, the predicted x_0), both [B, ...].

    For reading, and for loops of your own; `sampling.sample` runs whole tables of such steps.

    x_t:   [B, ...].
    eps:   [B, ...], what the network predicts for x_t.
    t:     a whole number in 0..T, or [B].
    s:     the same; below t, or without noise also above it, which encodes.
    eta:   a number, [B] or [B, 1, ...]: 0 (the default) is DDIM, 1 is DDPM.
    noise: [B, ...], standard normal, where eta is not 0; None (the default) where it is.

    Raises ValueError where eta calls for noise and there is none, or is past its limit (see `step_std`).
    """
    if noise is None and not (is_known(eta) and np.all(np.asarray(eta) == 0)):
        raise ValueError(f"eta is {eta}, so the step is random: pass noise, standard normal and of shape {x_t.shape}")
    x0 = predict_x0(schedule, x_t, t, eps)
    std = 0.0 if noise is None else step_std(schedule, t, s, eta, x_t)
    x_s = step_mean(schedule, x0, eps, s, std)
    return (x_s if noise is None else x_s + std * noise), x0


def number_from_zero(network: Callable[[jax.Array, jax.Array], Any]) -> Callable[[jax.Array, jax.Array], Any]:
    """network (x, step) with steps 0..T-1, as every published one has, to a function (x, t) of the paper's t.

    At t = 0, where nothing was trained and encoding begins, it asks at t = 1 (the paper leaves this open).
    """
    return lambda x, t: network(x, jnp.maximum(t, 1) - 1)


def from_eps(schedule: Schedule, eps_fn: EpsFn) -> Predict:
    """A predictor from a function that predicts the noise (Eq. 9). Raises ValueError where x_T holds no signal at all."""
    if is_known(schedule.alpha_bar) and schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "alpha_bar[T] is 0 (zero terminal SNR): from pure noise no x_0 follows, so eps prediction cannot start there"
        )

    def predict(x, t):
        eps = eps_fn(x, t)
        check_shape(eps, x, "what the network predicts")
        return Prediction(predict_x0(schedule, x, t, eps), eps)

    return predict


def from_x0(schedule: Schedule, x0_fn: EpsFn) -> Predict:
    """A predictor from a function that predicts x_0. At t = 0, where x is x_0, its answer serves for eps alone, as at t = 1."""

    def predict(x, t):
        x0, clean = x0_fn(x, t), _clean(t, x)
        check_shape(x0, x, "what the network predicts")
        return Prediction(jnp.where(clean, x, x0), predict_eps(schedule, x, jnp.maximum(t, 1), x0))

    return predict


def from_v(schedule: Schedule, v_fn: EpsFn) -> Predict:
    """A predictor from a function that predicts the velocity. At t = 0 its answer serves for eps alone, as at t = 1."""

    def predict(x, t):
        v = v_fn(x, t)
        check_shape(v, x, "what the network predicts")
        x0, eps = from_velocity(schedule, x, jnp.maximum(t, 1), v)
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
    """The predictor with x_0 clipped to [low, high]; DDPM's code does so, the paper's at sigma-hat alone.

    schedule:  the noise schedule.
    predict:   (x [B, ...], t [B]) -> Prediction.
    low, high: the range of the data; -1 and 1 are the defaults.
    """
    return map_x0(schedule, predict, lambda x0: jnp.clip(x0, low, high))
