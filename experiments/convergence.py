"""Error against steps, for every solver: a figure for the documentation, and the slopes behind it.

    python -m experiments.convergence --output=docs/convergence.png

Left: data from a mixture of three Gaussians, whose best eps is known, so that the ODE of Eq. 14 can be solved as exactly as one
likes: the RMS error at sigma = 0.02 of paths from sigma = 20, in steps even in log(sigma). Right: the digits that ship, by the
sliced Wasserstein distance of their samples to real ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import ddim_jax
from ddim_jax import weights
from ddim_jax.commands import command
from ddim_jax.common import extras
from ddim_jax.common.devices import check_memory
from ddim_jax.common.files import check_writable, local
from ddim_jax.data import sources
from ddim_jax.data.images import to_float
from ddim_jax.diffusion import process, sampling, schedule, solvers
from ddim_jax.evaluation.distances import sliced_wasserstein

_OUTPUT = flags.DEFINE_string("output", "docs/convergence.png", "The figure to write.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 500, "How many digits a solver draws for each number of steps.", lower_bound=2)

SOLVERS = {
    "DDIM": solvers.ddim,
    "DPM-Solver++(2M)": solvers.dpmpp_2m,
    "PLMS": solvers.plms,
    "UniPC-2": solvers.unipc,
    "UniPC-3": lambda noise_schedule, tau: solvers.unipc(noise_schedule, tau, order=3),
}
WEIGHTS, MEANS, STDS = np.array([0.3, 0.5, 0.2]), np.array([-0.8, 0.1, 0.9]), np.array([0.3, 0.3, 0.2])
LEVELS = np.geomspace(0.02, 20, 641)
MIXTURE_STEPS, DIGITS_STEPS = (10, 20, 40, 80, 160), (5, 10, 20, 40)
DISTANCES = (0.03, 0.04, 0.05, 0.06, 0.08)


def best_eps(noise_schedule: schedule.Schedule):
    """The eps that minimises the loss on the mixture: -sqrt(1 - a) times the score of x_t, N(sqrt(a) m_k, a s_k^2 + 1 - a)."""

    def eps(x, t):
        a = jnp.asarray(noise_schedule.alpha_bar)[t][:, None]
        variance = a * STDS**2 + 1 - a
        distance = x[:, None] - jnp.sqrt(a) * MEANS
        share = jax.nn.softmax(np.log(WEIGHTS) - jnp.log(variance) / 2 - distance**2 / variance / 2)
        return jnp.sqrt(1 - a[:, 0]) * jnp.sum(share * distance / variance, axis=1)

    return eps


def mixture_errors() -> dict[str, list[float]]:
    """The RMS error of each solver in each of MIXTURE_STEPS, against UniPC-3 in 640 steps, in float64."""
    with jax.enable_x64(True):
        noise_schedule = schedule.from_alpha_bar(np.concatenate([[1], 1 / (1 + LEVELS**2)]))
        predict = process.from_eps(noise_schedule, best_eps(noise_schedule))
        run = jax.jit(lambda table, x: sampling.sample(predict, table, x, jax.random.key(0)))
        x = jnp.asarray(np.random.default_rng(0).standard_normal(1000))

        def end(solver, steps):  # at the smallest sigma: the step from there to x_0 would add one error to all
            table = solver(noise_schedule, np.concatenate([[0], np.arange(1, 642, 640 // steps)]))
            return np.asarray(run(jax.tree.map(lambda column: column[:-1], table), x))

        exact = end(SOLVERS["UniPC-3"], 640)
        return {
            name: [float(np.sqrt(np.mean((end(solver, steps) - exact) ** 2))) for steps in MIXTURE_STEPS]
            for name, solver in SOLVERS.items()
        }


def flat(images) -> np.ndarray:
    """Images [N, ...] as rows of values [N, D]."""
    return np.asarray(images).reshape(len(images), -1)


def digits_distances(count: int) -> tuple[dict[str, list[float]], float]:
    """The distance to real digits of each solver's in each of DIGITS_STEPS, and that of held-out digits to the same."""
    model = ddim_jax.load(weights.DIGITS)
    real = flat(to_float(sources.mnist_5k("train")))
    every = SOLVERS | {"DDPM": solvers.ddpm}  # whose paths are random, so that only their ends can be compared
    distances: dict[str, list[float]] = {name: [] for name in every}
    for steps in DIGITS_STEPS:
        for name, solver in every.items():
            table = solver(model.schedule, model.tau(steps, "logsnr"))
            label = {"label": np.arange(count) % model.num_classes}
            drawn = model.generator().batches(model.params, table, 0, np.arange(count), 100, label)
            distances[name].append(sliced_wasserstein(flat(np.concatenate(list(drawn))), real))
            print(f"digits, {steps:3d} steps, {name}: {distances[name][-1]:.4f}", flush=True)
    return distances, sliced_wasserstein(flat(to_float(sources.mnist_5k("test"))), real)


def main(_):
    plt = extras.require("matplotlib.pyplot", "demo")
    plt.switch_backend("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    kinds = figure.canvas.get_supported_filetypes()
    if not _OUTPUT.value.endswith(tuple(f".{kind}" for kind in kinds)):
        raise app.UsageError(f"--output is {_OUTPUT.value}; expected a name that ends in one of {', '.join(sorted(kinds))}")
    check_writable(local(_OUTPUT.value))
    check_memory(f"--num_images={_NUM_IMAGES.value}", on_host=8 * 28 * 28 * _NUM_IMAGES.value)  # drawn, and as rows of values
    sources.mnist_5k("test")  # which raises where the package that brings the digits is missing
    errors = mixture_errors()
    for name, values in errors.items():
        slope = np.log(values[-1] / values[-2]) / np.log(MIXTURE_STEPS[-1] / MIXTURE_STEPS[-2])
        print(f"mixture, {name}: " + ", ".join(f"{value:.2e}" for value in values) + f"; last slope {slope:.2f}")
        left.loglog(MIXTURE_STEPS, values, "o-", label=f"{name}, slope {slope:.2f}")
    left.set(title="mixture of Gaussians", xlabel="steps", ylabel="RMS error")
    distances, floor = digits_distances(_NUM_IMAGES.value)
    for name, values in distances.items():
        right.loglog(DIGITS_STEPS, values, "o-", label=name)
    right.axhline(floor, color="grey", linestyle=":", label="held-out digits")
    right.set(title="digits", xlabel="steps", ylabel="sliced Wasserstein distance to real digits")
    right.set_xticks(DIGITS_STEPS, DIGITS_STEPS)
    right.set_yticks(DISTANCES, DISTANCES)
    right.minorticks_off()
    for axes in (left, right):
        axes.legend(fontsize="small")
    figure.savefig(_OUTPUT.value, dpi=110)
    print(f"wrote {_OUTPUT.value}; held-out digits are at {floor:.4f}")


if __name__ == "__main__":
    command.run(main)
