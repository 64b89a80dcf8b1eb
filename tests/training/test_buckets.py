"""A run in a bucket of Google Cloud Storage, for which a server of its API in memory stands in (tests/fake_gcs.py)."""

import json
import os
import pathlib
import subprocess
import sys
import time
import types
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax import configuration, weights
from ddim_jax.common import files
from ddim_jax.training.checkpoints import Checkpoints, DamagedCheckpoint
from ddim_jax.training.log import Log
from ddim_jax.training.loop import train
from tests import fake_gcs, tiny

pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
ROOT = pathlib.Path(__file__).parents[2]
NOTES = {"config": {"name": "β"}}


@pytest.fixture(scope="module")
def server():
    with fake_gcs.serving() as serving, pytest.MonkeyPatch.context() as patch:
        for name, value in serving.environment.items():
            patch.setenv(name, value)
        yield serving


@pytest.fixture
def run(server):
    """A folder in the bucket in which nothing is."""
    return files.at(f"gs://bucket/{uuid.uuid4().hex}")


def ended(*arguments):
    """The status of a command, and what it wrote."""
    process = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return process.returncode, process.stdout + process.stderr


def done(*arguments):
    """What a command that ends well wrote."""
    status, told = ended(*arguments)
    assert status == 0, told
    return told


def state_at(step):
    draw = np.random.default_rng(step).normal
    return {"ema.a": draw(size=(17, 33)), "params.a": draw(size=300), "step": np.asarray(step)}


def save(run, *steps):
    with Checkpoints(run / "checkpoints") as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), NOTES)


def damage(server, run, step, part="average"):
    """Turns every bit of the largest object of a part of a checkpoint."""
    name = max(server.names(f"{run.name}/checkpoints/{step}/{part}/"), key=lambda name: len(server.read(name)))
    server.write(name, bytes(byte ^ 255 for byte in server.read(name)))


def test_a_path_is_of_a_bucket_or_of_this_machine(server):
    assert str(files.at("gs://bucket/run") / "a") == files.local_or_bucket("gs://bucket/run/a") == "gs://bucket/run/a"
    assert files.at("runs/a") == pathlib.Path("runs/a") and isinstance(files.at("runs/a"), pathlib.Path)
    with pytest.raises(ValueError, match="gs://bucket names no place in a bucket; expected gs://BUCKET/FOLDER"):
        files.local_or_bucket("gs://bucket")
    with pytest.raises(ValueError, match="s3://bucket/run is no path on this machine"):
        files.local_or_bucket("s3://bucket/run")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ModuleNotFoundError, match=r"comes with the extra 'gcs'.*pip install -c constraints.txt -e \"\.\[gcs\]\""):
        files.local_or_bucket("gs://bucket/run")


@pytest.mark.parametrize(
    "bucket, reason", [("none", "there is no bucket none"), ("readonly", "someone@.* access to the bucket readonly")]
)
def test_a_bucket_that_cannot_be_written_to_is_refused(server, bucket, reason):
    with pytest.raises(ValueError, match=rf"^the output gs://{bucket}/run cannot be written to \({reason}\): give another$"):
        files.check_writable(f"gs://{bucket}/run", folder=True)
    with pytest.raises(OSError, match=rf"^gs://{bucket}/run/a.json cannot be written \({reason}\)$"):
        with files.whole(f"gs://{bucket}/run/a.json") as part:
            part.write_text("{}")
    assert not server.buckets.get(bucket)


@pytest.mark.parametrize(
    "bucket, reason",
    [
        ("none", "there is no bucket none"),
        ("forbidden", "someone@.* the bucket forbidden"),
        ("objects", "403 .* someone@.* does not have storage.buckets.get access to the bucket objects"),  # which Orbax needs
    ],
)
def test_a_bucket_that_may_not_be_read_is_refused(server, bucket, reason):
    with pytest.raises(ValueError, match=rf"^gs://{bucket}/run cannot be read \({reason}\): see to it that this machine may$"):
        files.local_or_bucket(f"gs://{bucket}/run")


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["none", "forbidden", "objects", "readonly", "without gcsfs"])
def test_a_command_ends_in_one_line_before_it_begins(server, tmp_path, monkeypatch, bucket):
    if bucket == "without gcsfs":
        (tmp_path / "gcsfs.py").write_text("raise ModuleNotFoundError(\"No module named 'gcsfs'\", name='gcsfs')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        bucket = "bucket"
    status, told = ended("experiments.train", "--config=tests/tiny.py", f"--workdir=gs://{bucket}/never")
    assert status in (1, 2) and told.startswith("error: ") and len(told.splitlines()) == 1, told
    assert not server.buckets.get(bucket) or not server.names("never", bucket)


def test_trying_leaves_nothing_behind(server, run):
    files.check_writable(run, folder=True)
    assert server.names(run.name) == []


def test_an_object_is_written_whole_or_not_at_all(server, run):
    with pytest.raises(RuntimeError):
        with files.whole(run / "a") as part:
            part.write_text("half")
            raise RuntimeError
    assert server.names(run.name) == []
    large = os.urandom(12_000_000)  # in more than one request
    with files.whole(run / "a") as part:
        part.write_bytes(large)
    assert (run / "a").read_bytes() == large


def test_weights_in_a_bucket(server, run):
    config = tiny.get_config()
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), configuration.parameter_shapes(config))
    weights.save(run / "a.safetensors", weights.Weights(config, params))
    assert weights.digest(weights.read(run / "a.safetensors").params) == weights.digest(params)
    damaged = bytearray(server.read(f"{run.name}/a.safetensors"))
    damaged[-1] ^= 1
    server.write(f"{run.name}/a.safetensors", bytes(damaged))
    with pytest.raises(ValueError, match=f"^{run}/a.safetensors is not the file that a.safetensors.sha256 was written for"):
        weights.load(run / "a.safetensors")


def test_checkpoints_in_a_bucket_are_kept_and_read_like_others(server, run):
    save(run, 1, 2, 3)
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        arrays, notes = checkpoints.load()
    assert notes == NOTES
    for name, array in state_at(3).items():
        np.testing.assert_array_equal(arrays[name], array)
    assert {name.split("/")[2] for name in server.names(f"{run.name}/checkpoints/")} == {"2", "3"}


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_stepped_over_and_set_aside(server, run):
    save(run, 1, 2)
    damage(server, run, 2)
    objects = len(server.names(f"{run.name}/checkpoints/2/"))
    told = f"the checkpoint of step 2 is damaged .* step 1 is used. It lies in {run}/"
    with pytest.warns(UserWarning, match=told + "checkpoints/2"):
        with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            assert checkpoints.load().arrays["step"] == 1
    with pytest.warns(UserWarning, match=told + "damaged_checkpoints/2"):
        with Checkpoints(run / "checkpoints") as checkpoints:
            assert checkpoints.load().arrays["step"] == 1
            checkpoints.save(state_at(2), NOTES)
    assert len(server.names(f"{run.name}/damaged_checkpoints/2/")) == objects
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.load().arrays["step"] == 2
    damage(server, run, 1, "rest")
    damage(server, run, 2, "rest")
    with pytest.raises(DamagedCheckpoint, match="no checkpoint in gs://bucket/.* is whole"):
        with Checkpoints(run / "checkpoints") as checkpoints:
            checkpoints.load()


def test_what_a_killed_process_had_not_finished_is_no_checkpoint(server, run):
    """In a bucket nothing is renamed: a checkpoint is one once commit_success.txt is there, which is written last."""
    save(run, 1)
    for name in server.names(f"{run.name}/checkpoints/1/"):
        if not name.endswith("/1/commit_success.txt"):
            server.write(name.replace("/1/", "/2/"), server.read(name))
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.load().arrays["step"] == 1
    save(run, 2)
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.load().arrays["step"] == 2


def test_the_log_is_in_the_bucket_before_the_checkpoint(server, run):
    call = {"loss": np.array([0.5, 0.25]), "grad_norm": np.array([1.0, 3.0])}

    def log(start):
        return Log(run, start=start, total=12, batch_size=64, active=True)

    def steps():
        return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    killed = log(0)  # which never ends
    for step in (2, 4, 6):
        killed.add(call)
        killed.write(step, {})
        if step == 4:
            killed.publish()
    assert steps() == [2, 4]
    killed.write_results(6, {"distance": 1.0, "samples": np.zeros((4, 4, 1), np.uint8)})
    assert steps() == [2, 4, 6, 6] and (run / "samples" / "step_0000006.png").exists()
    server.write(f"{run.name}/metrics.jsonl", server.read(f"{run.name}/metrics.jsonl").replace(b'{"step": 2', b"2\n", 1))
    with pytest.warns(
        UserWarning, match=r"^metrics.jsonl has 2 lines that are no records: they are set aside in metrics_damaged"
    ):
        resumed = log(4)
    with resumed:
        resumed.add(call)
        resumed.write(6, {})
    assert steps() == [4, 6] and (run / "metrics_damaged.jsonl").read_text().startswith("2\n")
    assert server.names(f"{run.name}/tensorboard/events")


def test_a_trace_in_a_bucket_is_refused(run):
    task = types.SimpleNamespace(hooks=[], source=np.zeros((8, 1)))
    with pytest.raises(ValueError, match="a trace cannot be written to the bucket of gs://bucket/.*: profile a few steps"):
        train(task, run, steps=8, batch_size=8, profile=(2, 4))


@pytest.mark.slow
def test_a_run_in_a_bucket_killed_midway_ends_as_one_on_a_disk(server, run, tmp_path):
    """The same bits, records and pictures; and what is drawn from the one is what is drawn from the other."""
    line = ["experiments.train", "--config=tests/tiny.py", "--config.training.steps=200", "--config.training.checkpoint_every=20"]
    line += ["--config.training.log_every=10", "--config.training.sample_every=40"]
    with open(tmp_path / "killed", "w+") as told:
        killed = subprocess.Popen([sys.executable, "-m", *line, f"--workdir={run}"], cwd=ROOT, stderr=told)
        late = time.monotonic() + 300
        while f"{run.name}/checkpoints/100/commit_success.txt" not in server.names(f"{run.name}/checkpoints/1"):
            assert killed.poll() is None and time.monotonic() < late, (tmp_path / "killed").read_text()
            time.sleep(0.01)
        killed.kill()
        killed.wait()
    first = (tmp_path / "killed").read_text()
    assert "step 100 of" in first and "step 200 of" not in first and "could not be written" not in first
    said = done(*line, f"--workdir={run}")
    assert f"warning: a bucket has no locks: see to it that no other process trains in {run}\n" in said
    assert "step 100 of" not in said and "step 200 of" in said
    local = tmp_path / "run"
    done(*line, f"--workdir={local}")

    def contents(folder):
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.load()

    (arrays, notes), (expected, expected_notes) = contents(run), contents(local)
    assert notes == expected_notes and arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)

    def losses(folder):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(record["step"], record.get("loss"), record.get("grad_norm")) for record in records]

    assert losses(run) == losses(local) and len(losses(run)) == 20

    def pictures(folder, kind):
        return {path.name: path.read_bytes() for path in sorted((folder / kind).glob("*.png"))}

    assert pictures(run, "samples") == pictures(local, "samples") and len(pictures(run, "samples")) == 5
    for folder in (run, local):
        arguments = ("--num_images=4", "--modes=grid,npz", f"--output={folder / 'drawn'}")
        assert f"wrote grid, npz into {folder}/drawn" in done("experiments.sample", f"--workdir={folder}", *arguments)
    assert pictures(run, "drawn") == pictures(local, "drawn") != {}
