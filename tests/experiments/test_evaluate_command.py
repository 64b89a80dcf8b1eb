"""experiments.evaluate as a user types it."""

import json

import numpy as np
import pytest
from PIL import Image

from ddim_jax.data import sources
from tests.experiments.test_commands import ROOT, command, commands, file, random_weights, refused  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow
FEW = ["--num_samples=24", "--steps=2", "--batch_size=16", "--num_held_out=8"]


def test_every_table_of_a_checkpoint(file, tmp_path):  # noqa: F811
    out, references = tmp_path / "out", tmp_path / "references"
    line = [f"--checkpoint={file}", f"--output={out}", f"--references={references}", *FEW, "--table=all", "--rows=0,hat_clipped"]
    done = command("evaluate", *line)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0].split() == ["table", "to", "find", "evaluations", "about"] and printed[-1] == f"wrote {out}/report.html"
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["reference"] == "mnist_5k train" and results["settings"]["reference_made_of"]["count"] == 4500
    assert results["settings"]["weights"] == "tiny.safetensors" and results["settings"]["extractor"] == "classifier of mnist_5k"
    assert {
        "eta0_S2",
        "hat_clipped_S2",
        "reconstruction_S2",
        "unipc_S2",
        "bound_S2",
        "ode_S2",
        "sight_real",
        "seconds_S2",
    } <= set(results["figures"])
    assert [path.suffix for path in references.iterdir()] == [".npz"]
    pictures = {path.name: Image.open(path).size for path in out.glob("figure_5*.png")}
    assert pictures == {"figure_5_2.png": (2 + 30 * 10, 2 + 30)}
    html = (out / "report.html").read_text()
    assert 'src="http' not in html and html.count("data:image/png;base64,") >= 7
    again = command("evaluate", *line)
    assert again.stdout.splitlines() == [f"wrote {out}/report.html"] and (out / "report.html").read_text() == html


def test_statistics_of_somebody_else_and_images_of_a_folder(file, tmp_path):  # noqa: F811
    (tmp_path / "mine").mkdir()
    for i, digit in enumerate(sources.mnist_5k("test")[:6]):
        Image.fromarray(digit[..., 0]).save(tmp_path / "mine" / f"{i}.png")
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(128), sigma=np.eye(128))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    wide = random_weights(tmp_path / "wide.safetensors", data=dict(image_size=(32, 32), crop="center"))
    discrete = random_weights(
        tmp_path / "discrete.safetensors", diffusion=dict(categories=4, prediction="x0"), data=dict(image_size=(28, 28))
    )
    restores = random_weights(tmp_path / "restores.safetensors", data=dict(degrade="half_size"))
    out = tmp_path / "out"
    given = [f"--checkpoint={file}", f"--output={out}", f"--references={tmp_path}/references", *FEW]
    not_inception = tmp_path / "w.pth"
    not_inception.write_bytes(b"0" * 100)
    expected = [
        (["--output=x"], 2, "give either --workdir"),
        ([f"--checkpoint={file}"], 2, "give --output"),
        ([*given, "--table=8"], 1, "unknown table 8; expected some of 1, 2, 3, solvers"),
        ([*given, "--rows=sigma"], 1, "unknown row 'sigma'; expected a value of η"),
        ([*given, "--steps=ten"], 2, "--steps is ten; expected whole numbers above 0"),
        ([*given, "--steps=2000"], 1, "cannot choose 2000 sampling steps out of 1000"),
        ([*given, "--num_samples=3"], 2, "flag --num_samples=3"),
        ([*given, "--extractor=inception"], 1, "the extractor inception needs the path of its weights"),
        ([*given, "--extractor=inception", f"--extractor_weights={not_inception}"], 1, "w.pth has 100 bytes and SHA-256"),
        ([*given, "--extractor=classifier", f"--extractor_weights={not_inception}"], 1, "classifier brings its own weights"),
        ([*given, f"--reference={tmp_path}/none.npz"], 1, "there is no reference"),
        ([*given, f"--reference={tmp_path}/wide.npz"], 1, "wide.npz has 2048 features, and the extractor finds 128"),
        ([f"--checkpoint={discrete}", f"--output={out}", *FEW], 1, "this one is of discrete values"),
        ([f"--checkpoint={restores}", f"--output={out}", *FEW], 1, "this network is told an image for each"),
        (
            [f"--checkpoint={wide}", f"--output={out}", *FEW],
            1,
            "the images are [256, 32, 32, 1]; a classifier of grey images takes",
        ),
    ]
    ends = commands("evaluate", *(line for line, *_ in expected))
    for end, (_, status, message) in zip(ends, expected, strict=True):
        refused(end, status, message)
    assert not out.exists() and not (ROOT / "x").exists()
    (end,) = commands(
        "evaluate",
        [
            *given,
            f"--reference={tmp_path}/theirs.npz",
            f"--images={tmp_path}/mine",
            "--table=2,3",
            "--num_samples=40",
            "--spacing=linspace",
        ],
    )
    assert end.status == 0, end.err
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["reference"] == "theirs.npz" and results["figures"]["reconstruction_S2"]["n"] == 6
    assert results["settings"]["spacing"] == "linspace"
    assert results["figures"]["eta1_S2"]["kernel_distance"] is None
