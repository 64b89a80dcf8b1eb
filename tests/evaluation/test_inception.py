"""The network against two others with the same random weights: torch_fidelity 0.4.0 and pytorch_fid 0.3.0, in PyTorch."""

import hashlib
import http.server
import importlib.util
import sys
import threading
import types
import zlib

import jax
import numpy as np
import pytest

from ddim_jax.common import files, tensor_files
from ddim_jax.evaluation.extractors import inception
from tests.real import real_images

NEEDED = ("torch", "torch_fidelity", "pytorch_fid")
slow = pytest.mark.slow
with_torch = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason=f"the oracles need the packages {', '.join(NEEDED)}"
)


@pytest.fixture(scope="module")
def weights():
    """Seeded by name; with He's variance, so that numbers keep their size from layer to layer."""
    found = {}
    for name, shape in inception.shapes().items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1:
            noise *= np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("weight", "var")):
            noise = np.exp(noise / 5)
        else:
            noise /= 10
        found[name] = noise.astype(np.float32)
    return found


@pytest.fixture(scope="module")
def describe(weights):
    """images -> what the network gives."""
    network = inception.extractor(weights, "")
    apply = jax.jit(network.apply)
    return lambda images: jax.device_get(apply(network.params, images))


@pytest.fixture(scope="module")
def theirs(weights, tmp_path_factory):
    """torch_fidelity's network, pytorch_fid's blocks one after the other, and the file with their weights.

    Both packages import torchvision. torch_fidelity needs it for other networks; pytorch_fid inherits the layers of its blocks
    from it (forward() is its own), and here inherits torch_fidelity's, which are the same layers under the same names.
    """
    import torch

    def package(name, **content):
        module = types.ModuleType(name)
        module.__dict__.update(content)
        patch.setitem(sys.modules, name, module)
        return module

    with pytest.MonkeyPatch.context() as patch:
        (folder,) = importlib.util.find_spec("torch_fidelity").submodule_search_locations
        package("torch_fidelity", __path__=[folder])  # without its __init__, which imports all of it
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity

        file = tmp_path_factory.mktemp("weights") / "weights.pth"
        state = {name: torch.from_numpy(array) for name, array in weights.items()}
        state |= {"fc.bias": torch.ones(1008)}
        counters = {name.removesuffix("weight") + "num_batches_tracked" for name in state if name.endswith("bn.weight")}
        state |= {name: torch.tensor(0) for name in counters}
        torch.save(state, file, _use_new_zipfile_serialization=False)  # the format of that time
        features = ["2048", "logits_unbiased"]
        first = fidelity.FeatureExtractorInceptionV3("", features, feature_extractor_weights_path=file)

        bases = types.SimpleNamespace(
            InceptionA=fidelity.InceptionA, InceptionC=fidelity.InceptionC, InceptionE=fidelity.InceptionE_1
        )
        package(
            "torchvision",
            __version__="0.26",
            models=types.SimpleNamespace(
                inception=bases,
                inception_v3=lambda **_: fidelity.FeatureExtractorInceptionV3("", features, feature_extractor_weights_path=file),
            ),
        )
        package("pytorch_fid", __path__=list(importlib.util.find_spec("pytorch_fid").submodule_search_locations))
        patch.setattr("torch.utils.model_zoo.load_url", lambda *_, **__: state)
        from pytorch_fid import inception as fid

        second = fid.InceptionV3(resize_input=False, normalize_input=False).eval()
        yield first, second, file
        for name in [name for name in sys.modules if name.split(".")[0] in ("torch_fidelity", "pytorch_fid", "torchvision")]:
            patch.delitem(sys.modules, name)


def noise(batch, height, width):
    """The first image the brightest, so that they differ in their features too."""
    above = 256 // np.arange(1, batch + 1)[:, None, None, None]
    return np.random.default_rng(0).integers(0, above - 1, (batch, height, width, 3), dtype=np.uint8, endpoint=True)


def photographs(count):
    return real_images("cifar10", "test")[0][:count]


def assert_near(found, expected, spread):
    """Within 1e-3 of the standard deviation of a number between images, which is itself some hundredths of the numbers."""
    assert np.abs(found - expected).max() <= 1e-3 * spread, (np.abs(found - expected).max() / spread, spread, expected.std())


@slow
@with_torch
@pytest.mark.parametrize(
    "images",
    [lambda: photographs(4), lambda: noise(2, 40, 56), lambda: noise(2, 310, 427)],
    ids=["photographs", "larger", "smaller"],
)
def test_is_torch_fidelitys(images, describe, theirs):
    """Photographs of 32x32, and noise in rectangles that become larger, and smaller."""
    import torch

    images = images()
    network, seen = theirs[0], []
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    features, logits = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    hook.remove()
    spatial = seen[0][:, :7].permute(0, 2, 3, 1).flatten(1)
    found = describe(images)
    assert {name: array.shape[1:] for name, array in found.items()} == {
        "features": (2048,),
        "logits": (1008,),
        "spatial": (2023,),
    }
    for name, expected in {"features": features, "logits": logits, "spatial": spatial}.items():
        expected = expected.numpy()
        assert_near(found[name], expected, expected.std(0).mean())


@slow
@with_torch
def test_is_pytorch_fids(describe, theirs):
    """At 299x299, where nothing is resized: pytorch_fid resizes as PyTorch does, half a pixel beside TensorFlow. It also divides
    by 255 and not by 128, a third choice, so it is given numbers that are ready."""
    import torch

    images = noise(2, 299, 299)
    (expected,) = theirs[1]((torch.from_numpy(images).permute(0, 3, 1, 2).float() - 128) / 128)
    expected = expected.flatten(1).numpy()
    assert_near(describe(images)["features"], expected, expected.std(0).mean())


@slow
@with_torch
def test_reads_a_file_of_pytorch(weights, theirs, monkeypatch):
    monkeypatch.setattr(inception, "DIGEST", files.digest(theirs[2]))
    found, expected = inception.load(theirs[2]), inception.extractor(weights, inception.DIGEST)
    assert (found.name, found.digest, found.channels, found.distance) == ("Inception-v3 (2015)", inception.DIGEST, 3, "FID")
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@slow
def test_gives_the_numbers_that_torch_fidelity_gave(describe):
    """Recorded from torch_fidelity 0.4.0 on PyTorch 2.13, for machines without PyTorch: three numbers of each of two images,
    and the length of each. The numbers differ between images by .25, .48 and .17 (standard deviations): 1e-3 of that."""
    found = describe(noise(2, 40, 56))
    recorded = {
        "features": ([[6.51948, 0.28395, 12.31026], [8.30866, 0.28633, 15.23762]], [155.20418, 192.59563], 2.5e-4),
        "logits": ([[-1.53298, -3.08623, -3.2103], [-1.70588, -3.26499, -3.14611]], [152.92142, 189.96548], 4.8e-4),
        "spatial": ([[2.04735, 0.95301, 0.31708], [2.28202, 1.86019, 0.04492]], [48.00453, 50.45382], 1.7e-4),
    }
    for name, (numbers, lengths, tolerance) in recorded.items():
        np.testing.assert_allclose(found[name][:, [10, 500, -10]], numbers, rtol=0, atol=tolerance)
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), lengths, rtol=1e-5)


@slow
def test_an_image_is_described_alike_in_any_batch(describe):
    images = noise(3, 40, 56)
    together, alone = describe(images), describe(images[1:2])
    for name in together:
        assert_near(alone[name][0], together[name][1], together[name].std(0).mean())


@pytest.mark.slow
def test_refuses_other_images(weights):
    network = inception.extractor(weights, "")
    for images in (noise(1, 8, 8)[..., :1], noise(1, 8, 8)[0], noise(1, 8, 8).astype(np.float32)):
        with pytest.raises(ValueError, match=r"the images are .*; expected uint8\[B, H, W, 3\]"):
            network.apply(network.params, images)


def test_refuses_other_weights(weights):
    fewer = {name: array for name, array in weights.items() if name != "Mixed_7c.branch_pool.bn.bias"}
    with pytest.raises(ValueError, match=r"there is no Mixed_7c\.branch_pool\.bn\.bias; expected those of https://"):
        inception.extractor(fewer, "")
    with pytest.raises(ValueError, match=r"there is fc.weight \[1000, 2048\], not \[1008, 2048\]; expected those of"):
        inception.extractor({**weights, "fc.weight": weights["fc.weight"][:1000]}, "")
    with pytest.raises(ValueError, match="there is no Conv2d_1a_3x3.conv.weight and 470 more such; expected those of"):
        inception.extractor({}, "")


def test_refuses_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*; expected the weights of Inception-v3, from https://"):
        inception.load(tmp_path / "none.pth")
    (tmp_path / inception.FILE).write_bytes(b"something else")
    for refused in (lambda: inception.load(tmp_path / inception.FILE), lambda: inception.fetch(tmp_path)):
        with pytest.raises(ValueError) as error:
            refused()
        digest = hashlib.sha256(b"something else").hexdigest()
        assert f"has 14 bytes and SHA-256 {digest}; expected" in str(error.value) and "\n" not in str(error.value)
        assert f"95628359 bytes and {inception.DIGEST}: get them from https://github.com/mseitzer" in str(error.value)


@pytest.fixture
def served(monkeypatch):
    """Bytes -> inception.URL serves them, and says that they are 1,000."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(content[0])

        def log_message(self, *_):
            pass

    content = []
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(inception, "URL", f"http://127.0.0.1:{server.server_port}/{inception.FILE}")
    monkeypatch.setattr(inception, "DIGEST", hashlib.sha256(bytes(1000)).hexdigest())
    yield content
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_downloads_once(served, tmp_path):
    served.append(bytes(1000))
    path = inception.fetch(tmp_path / "new")
    assert path.name == "pt_inception-2015-12-05-6726825d.pth" and path.read_bytes() == bytes(1000)
    served[0] = b"not asked for again"
    assert inception.fetch(tmp_path / "new") == path and path.read_bytes() == bytes(1000)


@pytest.mark.parametrize("content", [bytes(500), b"1" * 1000], ids=["cut off", "another file"])
def test_fetch_leaves_nothing_where_it_fails(served, tmp_path, content):
    served.append(content)
    with pytest.raises((OSError, ValueError), match=f"{inception.URL} (has|cannot be downloaded)"):
        inception.fetch(tmp_path)
    assert not list(tmp_path.iterdir())


def test_fetch_says_what_to_do_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "URL", (tmp_path / "nowhere").as_uri())
    with pytest.raises(OSError, match="cannot be downloaded .*; fetch it in another way and put it there: ") as error:
        inception.fetch(tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_load_reads_what_extractor_takes(weights, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    tensor_files.write(path, weights)
    monkeypatch.setattr(inception, "DIGEST", files.digest(path))
    found, expected = inception.load(path), inception.extractor(weights, inception.DIGEST)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
