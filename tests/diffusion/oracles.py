"""Data whose best eps function is known in closed form, and the samplers of others, written out again from their text."""

import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.diffusion.schedule import Schedule, from_alpha_bar


def gaussian(schedule: Schedule, mean: float, std: float):
    """eps of data N(mean, std^2): sqrt(1-a) (x - sqrt(a) mean) / (a std^2 + 1 - a), since x_t is N(sqrt(a) mean, that)."""
    return mixture(schedule, [1.0], [mean], [std])


def point(schedule: Schedule, value: float):
    """eps of data that is always `value`: (x - sqrt(a) value) / sqrt(1-a)."""
    return mixture(schedule, [1.0], [value], [0.0])


def mixture(schedule: Schedule, weights, means, stds):
    """eps of values drawn one by one from sum_k w_k N(m_k, s_k^2): -sqrt(1-a) times the score of x_t (Tweedie).

    x_t is a mixture of N(sqrt(a) m_k, a s_k^2 + 1 - a), so its score is the mean of those of its parts, each weighted with
    its share r_k of the density at x.
    """
    weights, means, stds = map(np.asarray, (weights, means, stds))

    def eps(x, t):
        dtype = x.dtype
        alpha_bar = jnp.asarray(schedule.alpha_bar, dtype)[t].reshape(-1, *[1] * x.ndim)
        part = lambda values: jnp.asarray(values, dtype).reshape([1] * x.ndim + [-1])
        variance = alpha_bar * part(stds) ** 2 + 1 - alpha_bar
        distance = x[..., None] - jnp.sqrt(alpha_bar) * part(means)
        share = jax.nn.softmax(part(np.log(weights)) - jnp.log(variance) / 2 - distance**2 / variance / 2, axis=-1)
        return jnp.sqrt(1 - alpha_bar[..., 0]) * jnp.sum(share * distance / variance, axis=-1)

    return jax.jit(eps)


THREE = dict(weights=[0.3, 0.5, 0.2], means=[-0.8, 0.1, 0.9], stds=[0.3, 0.3, 0.2])  # smooth enough for S = 20 to be in the limit


def step_noise(key, num_steps: int, shape) -> np.ndarray:
    """The noise [S, ...] of a sampler's S steps: step i draws from fold_in(key, i)."""
    return np.stack([jax.random.normal(jax.random.fold_in(key, i), shape) for i in range(num_steps)])


def paper_steps(num_steps: int, num_sample_steps: int, spacing: str) -> list[int]:
    """The sub-sequences of the paper's code, which counts steps from 0 (its `skip_type`)."""
    if spacing == "leading":
        return list(range(0, num_steps, num_steps // num_sample_steps))
    return [int(s) for s in np.linspace(0, np.sqrt(num_steps * 0.8), num_sample_steps) ** 2]


def paper_sampler(betas, seq, eps_fn, x, noise, eta=None) -> np.ndarray:
    """Every x [S+1, ...] of the paper's code: Eq. 12 and 16 at `eta`, or with None its sigma-hat sampler, which clips x_0.

    seq counts steps from 0, -1 stands for x_0; noise [S, ...] in the order of use. eps_fn numbers steps from 1, as we do.
    """
    cumulative = np.cumprod(1 - np.concatenate([[0.0], betas]))
    xs = [x]
    for i, j, z in zip(reversed(seq), reversed([-1, *seq[:-1]]), noise):
        at, at_next = cumulative[i + 1], cumulative[j + 1]
        et = np.asarray(eps_fn(jnp.asarray(x), jnp.full(len(x), i + 1)))
        x0 = (x - et * (1 - at) ** 0.5) / at**0.5
        if eta is not None:
            c1 = eta * ((1 - at / at_next) * (1 - at_next) / (1 - at)) ** 0.5
            c2 = ((1 - at_next) - c1**2) ** 0.5
            x = at_next**0.5 * x0 + c1 * z + c2 * et
        else:
            beta = 1 - at / at_next
            mean = (at_next**0.5 * beta * np.clip(x0, -1, 1) + (1 - beta) ** 0.5 * (1 - at_next) * x) / (1 - at)
            x = mean + (i != 0) * beta**0.5 * z
        xs.append(x)
    return np.stack(xs)


LENGTHS = np.array([20, 40, 80, 160])  # S, of orders of convergence


def fine(sigmas) -> tuple[Schedule, np.ndarray]:
    """A schedule of 641 steps with these sigmas (of x / sqrt(a): a = 1 / (1 + sigma^2)), and all of its steps."""
    return from_alpha_bar(np.concatenate([[1], 1 / (1 + sigmas**2)])), np.concatenate([[0], np.arange(1, 642)])


def rk4(sigmas, eps, x):
    """Where Eq. 14 takes x from the largest of the sigmas to the smallest: in log(sigma) if they are spaced so, else in sigma.

    Its 320 steps, over two neighbours each, err by 1/320^4 where DDIM's S do by 1/S.
    """
    logs = np.allclose(np.diff(np.log(sigmas)), np.log(sigmas[1] / sigmas[0]))
    time = np.log(sigmas) if logs else sigmas

    def slope_at(x_bar, t):
        sigma = jnp.asarray(sigmas)[t - 1]
        return eps(x_bar / jnp.sqrt(1 + sigma**2), t) * (sigma if logs else 1)

    def step(x_bar, t):
        h = 2 * (time[0] - time[1])
        k1 = slope_at(x_bar, t)
        k2 = slope_at(x_bar + h / 2 * k1, t - 1)
        k3 = slope_at(x_bar + h / 2 * k2, t - 1)
        k4 = slope_at(x_bar + h * k3, t - 2)
        return x_bar + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    end, _ = jax.lax.scan(step, x * np.sqrt(1 + sigmas[-1] ** 2), jnp.arange(641, 1, -2))
    return np.asarray(end / np.sqrt(1 + sigmas[0] ** 2))


def slope(num_steps, errors) -> float:
    """The order of convergence: how log(error) falls with log(S)."""
    return np.polyfit(np.log(num_steps), np.log(errors), 1)[0]


def rms(error) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def sliced_wasserstein(a, b, directions: int = 1, seed: int = 0) -> float:
    """The mean W1 distance of samples a, b [N, D] along random directions: of sorted projections (exact for D = 1)."""
    projections = np.random.default_rng(seed).standard_normal((a.shape[1], directions))
    projections /= np.linalg.norm(projections, axis=0)
    return float(np.mean(np.abs(np.sort(a @ projections, axis=0) - np.sort(b @ projections, axis=0))))
