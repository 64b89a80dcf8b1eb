"""Everything once, on handwritten digits: draws from the weights that ship with the package, then begins to train anew.

python -m experiments.demo --output=runs/demo
"""

import contextlib
import pathlib
import shutil
import time

import jax
import numpy as np
from absl import app, flags

import ddim_jax
from configs import demo
from ddim_jax import runs, weights
from ddim_jax.commands import command
from ddim_jax.common.files import check_writable, local
from ddim_jax.data import images, sources
from ddim_jax.data.images import to_uint8
from ddim_jax.diffusion import solvers
from ddim_jax.inference import pictures

_OUTPUT = flags.DEFINE_string("output", "runs/demo", "Folder to write to.")
_TRAIN_STEPS = flags.DEFINE_integer("train_steps", 40, "How long to train anew; a multiple of 40.", lower_bound=40)

SEED, STEPS = 0, 50
NUMBERS_OF_STEPS = (10, 20, 50, 100)  # of the rows that compare them
COUNT, COLUMNS = 300, 20  # digits 0 to 9, and again 0 to 9, in the columns of each picture


class Report:
    """What was made, where, and how long it took."""

    def __init__(self, output: pathlib.Path):
        self.output = output
        self.lines: list[str] = []

    @contextlib.contextmanager
    def part(self, name: str, *files: str):
        print(f"{name} ...", flush=True)
        began = time.perf_counter()
        yield
        paths = ", ".join(str(self.output / file) for file in files)
        self.lines.append(f"{time.perf_counter() - began:7.1f} s  {name}: {paths}")

    def __str__(self):
        return "\n".join(self.lines)


def draw(report: Report, output: pathlib.Path) -> None:
    """Pictures of all that the shipped weights can do."""
    model = ddim_jax.load(weights.DIGITS)
    generator, params = model.generator(), model.params
    label = np.arange(COUNT) % 10
    row = {"label": label[:COLUMNS]}

    def save(name, pictures_of):
        images.save_png(output / name, images.grid(np.asarray(to_uint8(np.asarray(pictures_of)))))

    with report.part(f"{COUNT} digits in {STEPS} steps", "samples.png", "samples.npz"):
        samples = model.sample(COUNT, steps=STEPS, seed=SEED, batch_size=100)
        save("samples.png", samples.reshape(-1, COLUMNS, *model.shape))
        with images.npz_writer(output / "samples.npz", "samples", samples.shape) as write:
            write(np.asarray(to_uint8(samples)))
    with report.part("the x_0 predicted on the way", "chain.png"):
        digits = {"label": label[:10]}
        save("chain.png", pictures.chain(generator, params, model.table(STEPS), SEED, count=10, stages=10, condition=digits))
    with report.part("between latents", "interpolation.png", "interpolation_grid.png"):
        latents, _ = generator.latents(SEED, np.arange(20))
        pairs = latents.reshape(10, 2, *model.shape)
        save("interpolation.png", pictures.interpolation(generator, params, model.table(STEPS), pairs, 10, digits))
        three = {"label": np.array([3])}
        save("interpolation_grid.png", pictures.interpolation_grid(generator, params, model.table(STEPS), pairs[:2], 8, three))
    x, keys = generator.latents(SEED, np.arange(COLUMNS))
    several = f"{', '.join(map(str, NUMBERS_OF_STEPS))} steps"
    with report.part(f"the same latents (columns) at {several} (rows)", "steps.png"):
        save("steps.png", [model.decode(x, steps=steps, label=row["label"]) for steps in NUMBERS_OF_STEPS])
    with report.part("the same latents at eta = 0, 0.5, 1 and sigma-hat (rows)", "eta.png"):
        tables = [model.table(STEPS, eta=eta) for eta in (0.0, 0.5, 1.0)]
        tables.append(solvers.ddpm(model.schedule, model.tau(STEPS), variance="large"))
        save("eta.png", [generator.sample(params, table, x, keys, row) for table in tables])
    with report.part("the same latents without labels, with them, and guided by them with weight 3 (rows)", "guidance.png"):
        without, told = (model.decode(x, steps=STEPS, label=each) for each in (None, row["label"]))
        guided = model.sample(COLUMNS, steps=STEPS, seed=SEED, guidance=3.0)
        save("guidance.png", [without, told, guided])
    with report.part(f"held-out digits (first row), encoded and decoded in {several}", "reconstruction.png"):
        chosen = slice(None, None, 500 // COLUMNS)
        real, known = sources.mnist_5k("test")[chosen], sources.labels("mnist_5k", split="test")[chosen]
        real = np.asarray(images.to_float(real))
        rows = [real, *(model.reconstruct(real, steps=steps, label=known) for steps in NUMBERS_OF_STEPS)]
        save("reconstruction.png", rows)
    for steps, again in zip(NUMBERS_OF_STEPS, rows[1:]):
        error = np.mean(np.square((np.asarray(to_uint8(again), float) - np.asarray(to_uint8(real))) / 255))
        print(f"  reconstruction in {steps:3d} steps: mean squared error {error:.5f} a pixel in [0, 1]")


def train_anew(report: Report, output: pathlib.Path, steps: int) -> None:
    """The same configuration from scratch: half of the steps, a stop, and the other half from the checkpoint."""
    config = demo.get_config()
    config.training.update(steps=steps // 2, log_every=20, sample_every=steps, held_out_every=steps, checkpoint_every=steps // 2)
    config.sampling.update(steps=20, count=20)
    workdir = output / "training"
    shutil.rmtree(workdir, ignore_errors=True)
    with report.part(f"training anew, steps 1 to {steps // 2}", "training/"):
        runs.train_config(config, workdir)
    config.training.steps = steps
    with report.part(f"resumed from the checkpoint, to step {steps}", f"training/samples/step_{steps:07d}.png"):
        runs.train_config(config, workdir)


def main(_):
    output = pathlib.Path(local(_OUTPUT.value))
    if _TRAIN_STEPS.value % 40:
        raise app.UsageError(f"--train_steps is {_TRAIN_STEPS.value}; expected a multiple of 40")
    check_writable(output, folder=True)
    sources.mnist_5k("test")  # which raises where the package that brings the digits is missing
    jax.config.update("jax_compilation_cache_dir", str(output.absolute() / "compiled"))  # nothing is compiled twice
    report = Report(output)
    draw(report, output)
    train_anew(report, output, _TRAIN_STEPS.value)
    print(f"\nMade on this machine, in {output}:\n{report}")


if __name__ == "__main__":
    command.run(main)
