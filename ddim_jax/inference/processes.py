"""The families of processes at work: what a generator must know of one to draw from it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from ddim_jax.common import draws
from ddim_jax.diffusion import discrete, process, sampling, solvers
from ddim_jax.diffusion.sampling import Carry
from ddim_jax.diffusion.schedule import Schedule


class Process(NamedTuple):
    """One family: Gaussian noise, or the categories of appendix A."""

    noise: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # (keys [B], shape of an example) -> x_T [B, ...]
    predictor: Callable[[process.EpsFn], Callable]  # of a network (x, t): what `go_on` takes
    begin: Callable[..., Carry]  # (table, x) -> what its first row is given
    go_on: Callable[..., tuple[Carry, Any]]  # (predictor, table, carry, keys, record, rows, first) -> (carry, records)
    decode: Callable[[jax.Array], jax.Array]  # x_0 -> values [B, *shape]
    solvers: Mapping[str, Callable]  # by name: (schedule, tau, and its own arguments) -> table
    has_latents: bool  # whether an x_0 can be encoded, and predictors be guided


SOLVERS = {solver.__name__: solver for solver in (solvers.ddim, solvers.ddpm, solvers.dpmpp_2m, solvers.plms, solvers.unipc)}


def gaussian(schedule: Schedule, prediction: str = "eps") -> Process:
    """The paper's processes over real values, for a network that predicts "eps", "x0" or "v"."""

    def noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.vmap(lambda key: draws.normal(key, shape))(keys)

    def predictor(network: process.EpsFn) -> process.Predict:
        return process.make_predictor(schedule, network, prediction)

    return Process(noise, predictor, sampling.begin, sampling.go_on, lambda x: x, SOLVERS, has_latents=True)


def categorical(categories: int) -> Process:
    """Appendix A, over K categories a value: x is one-hot [B, *shape, K], for a network of logits [B, ..., C K]."""

    def noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return discrete.noise(keys, shape, categories)

    def predictor(network: process.EpsFn) -> discrete.ProbabilityFn:
        logits = discrete.by_category(network)
        return lambda x, t: jax.nn.softmax(logits(x, t))

    return Process(
        noise, predictor, discrete.begin, discrete.go_on, discrete.to_values, {"ddim": discrete.table}, has_latents=False
    )
