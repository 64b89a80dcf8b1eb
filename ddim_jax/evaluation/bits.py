"""Bits per dimension of images of 8 bits: what a network would need to say each value of them, at most."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.common import draws
from ddim_jax.common.devices import LocalDevices
from ddim_jax.common.seeds import stream
from ddim_jax.data.images import to_float
from ddim_jax.diffusion import likelihood
from ddim_jax.diffusion.process import Predict, number_from_zero, step_std, transition_std
from ddim_jax.diffusion.schedule import pairs
from ddim_jax.inference.model import Model

WIDTH = 2 / 255  # of the bin of a value, in the range [-1, 1] of the network
BATCH = 64  # images at once: the bound draws the noise of all its steps for each


def by_bound(model: Model, tau: np.ndarray, images: np.ndarray, index: np.ndarray, seed: int) -> np.ndarray:
    """The variational bound of DDPM over tau (eta = 1; Eq. 11, DDPM Eq. 13): bits a value, float64 [N].

    Its last step has the standard deviation of the chain itself, sqrt(1 - alpha_bar[tau[1]]), where eta = 1 has 0.

    model:  of images, with Gaussian noise.
    tau:    int [S+1], from 0 to T.
    images: uint8 [N, H, W, C].
    index:  int [N], numbers of the images: each decides what is drawn for its batch.
    seed:   of what is drawn.
    """
    t, s = pairs(model.schedule, tau)
    std = np.append(step_std(model.schedule, t[:-1], s[:-1], 1.0), transition_std(model.schedule, t[-1], s[-1]))

    def nats(predict: Predict, x0: jax.Array, key: jax.Array) -> jax.Array:
        eps = draws.normal(key, (len(t), *x0.shape))
        bound = likelihood.variational_bound(model.schedule, lambda x, t: predict(x, t).eps, tau, std, x0, eps, discretised=True)
        return bound.total

    return _bits(model, nats, images, index, seed)


def by_ode(model: Model, tau: np.ndarray, images: np.ndarray, index: np.ndarray, seed: int) -> np.ndarray:
    """The likelihood of the ODE (Eq. 14) over tau, of images with uniform noise in their bins: bits a value, float64 [N].

    Arguments as of `by_bound`. In expectation over that noise it is a bound, too (Theis et al., arXiv 1511.01844, Eq. 4).
    """

    def nats(predict: Predict, x0: jax.Array, key: jax.Array) -> jax.Array:
        noise, probes = jax.random.split(key)
        x = x0 + jax.random.uniform(noise, x0.shape, minval=-WIDTH / 2, maxval=WIDTH / 2)
        log_p = likelihood.ode_log_likelihood(model.schedule, predict, tau, x, probes)
        return -(log_p + math.prod(x.shape[1:]) * math.log(WIDTH))

    return _bits(model, nats, images, index, seed)


def _bits(model: Model, nats: Callable, images: np.ndarray, index: np.ndarray, seed: int) -> np.ndarray:
    devices = LocalDevices()

    @jax.jit
    def run(params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        predict = model.process.predictor(number_from_zero(lambda x, step: model.network.apply(params, x, step, {}, None)))
        return jnp.asarray(likelihood.bits_per_dimension(nats(predict, to_float(images), key), model.shape))

    def batches() -> Iterator[np.ndarray]:
        params, keys = devices.everywhere(model.params), stream(seed, "likelihood")
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            padded = np.resize(batch, (min(BATCH, len(images)), *batch.shape[1:]))  # of one size, so that it is compiled once
            drawn = run(params, devices.split(jnp.asarray(padded)), jax.random.fold_in(keys, int(index[first])))
            yield np.asarray(drawn, np.float64)[: len(batch)]

    return np.concatenate(list(batches()))
