"""TFDS without TensorFlow: data sets prepared here, under their true names and features, read back by name.

The builders of CelebA and LSUN are TFDS's own, given a few images of ours instead of the download; their images go in as
encoded files, so that nothing here needs TensorFlow.
"""

import hashlib
import http.server
import io
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra ddim_jax[tfds]")

from tensorflow_datasets.core.download import checksums  # noqa: E402

from configs import celeba, lsun_church  # noqa: E402
from ddim_jax import configuration  # noqa: E402
from ddim_jax.data import sources  # noqa: E402
from ddim_jax.data import tfds as ours  # noqa: E402


def load(name, directory, **arguments):
    return sources.load(name, directory=directory, **dict(image_size=(8, 8), channels=3) | arguments)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return io.BytesIO(file.getvalue())


PICTURES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Thirty pictures and their numbers; TFDS shuffles them, so a picture is known by its number."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = dict(image=tfds.features.Image(shape=(None, None, 3)), number=tfds.features.Scalar(np.int64))
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(24)), "test": self._generate_examples(range(24, 30))}

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"image": png(PICTURES[i]), "number": i}


class TinyNumbers(TinyPictures):
    """No images at all."""

    def _info(self):
        features = tfds.features.FeaturesDict(dict(number=tfds.features.Scalar(np.int64)))
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"number": i}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The directory of the prepared TinyPictures, and its pictures in TFDS's order."""
    directory = tmp_path_factory.mktemp("tfds")
    builder = TinyPictures(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return directory, PICTURES[[int(example["number"]) for example in builder.as_data_source("train")]]


def test_in_memory_and_one_by_one(prepared):
    directory, pictures = prepared
    loaded = load("tiny_pictures", directory)
    np.testing.assert_array_equal(loaded, pictures)
    source = load("tiny_pictures", directory, memory_limit_mb=0)
    assert isinstance(source, ours.TfdsImages) and len(source) == 24
    np.testing.assert_array_equal(np.stack([source[i] for i in range(24)]), pictures)
    assert len(load("tiny_pictures", directory, split="test")) == 6
    assert len(load("tiny_pictures", directory, split="train[:25%]")) == 6


def test_fingerprints(prepared):
    directory, _ = prepared
    expected = {"name": "tiny_pictures", "split": "test", "version": "1.0.0", "count": 6}
    assert sources.fingerprint("tiny_pictures", split="test", directory=directory) == expected


def test_a_damaged_example_stops_or_is_skipped(tmp_path, monkeypatch):
    whole = TinyPictures._generate_examples

    def with_damage(self, numbers):
        for i, example in whole(self, numbers):
            yield i, example | ({"image": io.BytesIO(b"no image")} if i == 5 else {})

    monkeypatch.setattr(TinyPictures, "_generate_examples", with_damage)
    builder = TinyPictures(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    records = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    numbers = [int(record["number"]) for record in records]
    place = numbers.index(5)
    with pytest.raises(ValueError, match=f"example {place} of tiny_pictures, split 'train', cannot be read as an image"):
        load("tiny_pictures", tmp_path)
    numbers[place] = numbers[(place + 1) % 24]
    for memory_limit_mb in (0, 1):
        with pytest.warns(UserWarning, match=f"example {place} of tiny_pictures.*1 of 24 images so far"):
            found = load("tiny_pictures", tmp_path, corrupt="skip", memory_limit_mb=memory_limit_mb)
            np.testing.assert_array_equal(sources.take(found, np.arange(24)), PICTURES[numbers])


@pytest.mark.slow
def test_training_never_imports_tensorflow(prepared):
    directory, pictures = prepared
    code = f"""
import sys
from ddim_jax.data import batches, sources
assert not {{"tensorflow_datasets", "grain", "mlxtend", "tensorflow"}} & set(sys.modules), "these are imported only where used"
images = sources.load("tiny_pictures", directory={str(directory)!r}, image_size=(8, 8), channels=3, memory_limit_mb=0)
for batch in batches.stream(images, 8, 0, 0, 4):
    assert batch.shape == (8, 8, 8, 3)
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
print("sum", images[3].sum())
"""
    root = pathlib.Path(ours.__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert f"sum {pictures[3].sum()}" in found.stdout, found.stderr


def test_celeb_a(tmp_path, monkeypatch):
    # TFDS's CelebA: JPEG images 178x218 with 40 attributes and 5 landmarks. The pixel at (x, y) is about (x, y, 100).
    x, y = np.meshgrid(np.arange(178), np.arange(218))
    file = io.BytesIO()
    Image.fromarray(np.stack([x, y, 0 * x + 100], axis=-1).astype(np.uint8)).save(file, "JPEG", quality=95, subsampling=0)
    builder = tfds.builder("celeb_a", data_dir=tmp_path, file_format="array_record")
    example = {
        "identity": {"Identity_No": 7},
        "attributes": dict.fromkeys(builder.info.features["attributes"], True),
        "landmarks": dict.fromkeys(builder.info.features["landmarks"], 7),
    }
    examples = [(f"{i:06d}.jpg", example | {"image": io.BytesIO(file.getvalue())}) for i in range(1, 4)]
    monkeypatch.setattr(builder, "_split_generators", lambda *_: {"train": iter(examples)})
    builder.download_and_prepare()

    loaded = load("celeb_a", tmp_path, image_size=(128, 128), crop="celeba")
    assert loaded.shape == (3, 128, 128, 3)
    np.testing.assert_allclose(loaded[0, ..., 0], np.broadcast_to(np.arange(25, 153), (128, 128)), atol=4)
    np.testing.assert_allclose(loaded[0, ..., 1], np.broadcast_to(np.arange(57, 185)[:, None], (128, 128)), atol=4)
    with pytest.raises(ValueError, match="example 0 of celeb_a, split 'train', is 178 wide and 218 high.*expects .* 64 wide"):
        load("celeb_a", tmp_path, image_size=(64, 64))


@pytest.fixture
def by_hand(tmp_path, monkeypatch):
    """A function: the files of a TFDS data set are these, and lie where a user without a network puts them; returns DIR."""

    def no_network(*_):
        raise AssertionError("this asks the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)

    def lie_there(name, files):
        builder, manual = type(tfds.builder(name, data_dir=tmp_path)), tmp_path / "downloads" / "manual"
        manual.mkdir(parents=True)
        urls = {info.filename: url for url, info in builder.url_infos.items()}  # TFDS's own names and addresses
        infos = {}
        for filename, content in files.items():
            (manual / filename).write_bytes(content)
            infos[urls[filename]] = checksums.UrlInfo(len(content), hashlib.sha256(content).hexdigest(), filename)
        monkeypatch.setattr(builder, "url_infos", infos)
        return tmp_path

    return lie_there


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def jpeg(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


@pytest.mark.slow
def test_celeb_a_is_prepared_from_archives_that_are_there(by_hand):
    """The archives in the layout of CelebA's authors, with five pictures: three to train on, one to validate, one to test."""
    pytest.importorskip("tensorflow", reason="needs the extra ddim_jax[prepare]")
    names = [f"{i:06d}.jpg" for i in range(1, 6)]
    colours = dict(zip(names, [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10), (10, 200, 200)], strict=True))
    pictures = {f"img_align_celeba/{name}": jpeg(np.full((218, 178, 3), colour, np.uint8)) for name, colour in colours.items()}
    features = tfds.builder("celeb_a").info.features

    def table(columns, row):
        return "\n".join(["5", " ".join(columns), *(f"{name}  {row}" for name in names), ""]).encode()

    directory = by_hand(
        "celeb_a",
        {
            "img_align_celeba.zip": zipped({"img_align_celeba/": b""} | pictures),
            "list_eval_partition.txt": "".join(f"{n} {p}\n" for n, p in zip(names, "00012", strict=True)).encode(),
            "list_attr_celeba.txt": table(features["attributes"], " ".join(["-1"] * 40)),
            "list_landmarks_align_celeba.txt": table(features["landmarks"], " ".join(["70"] * 10)),
            "identity_CelebA.txt": "".join(f"{name} 2880\n" for name in names).encode(),
        },
    )
    ours.prepare("celeb_a", directory)
    config = celeba.get_config()
    config.data.update(directory=str(directory), image_size=(16, 16))
    for split, expected in {"train": names[:3], "validation": names[3:4], "test": names[4:]}.items():
        found = configuration.make_source(config, split)
        assert found.shape == (len(expected), 16, 16, 3)
        assert np.ptp(found.astype(int), axis=(1, 2)).max() == 0  # pictures of one colour
        at = np.abs(found[:, 0, 0, None].astype(int) - [colours[name] for name in expected]).max(-1)  # of each from each
        assert sorted(at.argmin(1)) == list(range(len(expected))) and at.min(1).max() <= 3  # what JPEG rounds


@pytest.mark.slow
def test_lsun_is_prepared_from_archives_that_are_there(by_hand, monkeypatch):
    """The archives in the layout of LSUN's authors, a folder with an LMDB: WebP files by number. Needs no TensorFlow."""
    lmdb = pytest.importorskip("lmdb", reason="needs the extra ddim_jax[prepare]")
    require = ours.extras.require
    monkeypatch.setattr(ours.extras, "require", lambda module, extra: module == "tensorflow" or require(module, extra))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 256, 341, 3), np.uint8)
    archives = {}
    for split, chosen in {"train": pictures[:3], "val": pictures[3:]}.items():
        folder = f"church_outdoor_{split}_lmdb"
        with tempfile.TemporaryDirectory() as place:
            with lmdb.open(place) as database, database.begin(write=True) as writing:
                for i, picture in enumerate(chosen):
                    file = io.BytesIO()
                    Image.fromarray(picture).save(file, "WEBP", lossless=True)
                    writing.put(hashlib.sha1(bytes([i])).hexdigest().encode(), file.getvalue())
            files = {f"{folder}/{path.name}": path.read_bytes() for path in pathlib.Path(place).iterdir()}
        archives[f"{folder}.zip"] = zipped({f"{folder}/": b""} | files)
    directory = by_hand("lsun/church_outdoor", archives)

    path = ours.prepare("lsun/church_outdoor", directory)
    assert path.startswith(str(directory / "lsun" / "church_outdoor"))
    config = lsun_church.get_config()
    config.data.update(directory=str(directory))
    validation = configuration.make_source(config, "validation")
    np.testing.assert_array_equal(validation, pictures[3:, :, 42:298])  # the central square, bit for bit
    found = configuration.make_source(config)
    assert {image.tobytes() for image in found} == {image.tobytes() for image in pictures[:3, :, 42:298]}
    config.data.image_size = (32, 32)
    assert configuration.make_source(config).shape == (3, 32, 32, 3)


class TinyArchive(TinyNumbers):
    """One number: how many bytes its only file has."""

    def _split_generators(self, dl_manager):
        (url,) = self.url_infos
        return {"train": self._generate_examples([len(dl_manager.download(url).read_bytes())])}


class Server(http.server.BaseHTTPRequestHandler):
    """Answers 503 for /busy.zip, 404 for /gone.zip, with another address, where nobody listens, for /moved.zip, else "bad"."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response({"/busy.zip": 503, "/gone.zip": 404, "/moved.zip": 302}.get(self.path, 200))
        self.send_header("Location", "http://127.0.0.1:9/moved.zip")
        self.end_headers()
        self.wfile.write(b"bad")

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A function: the file of TinyArchive lies at this path of a server that gives nothing good, and must be b"abc"."""
    require = ours.extras.require
    monkeypatch.setattr(ours.extras, "require", lambda module, extra: module == "tensorflow" or require(module, extra))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.asked = []

        def lies_at(path):
            # FIPS 180-2 gives the SHA-256 of "abc".
            digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            known = checksums.UrlInfo(size=3, checksum=digest, filename="archive.zip")
            monkeypatch.setattr(TinyArchive, "url_infos", {f"http://127.0.0.1:{server.server_port}{path}": known})
            return server.asked

        yield lies_at
        server.shutdown()


BY_HAND = r"'tiny_archive' cannot be prepared: .*{0}(.|\n)*{1}/downloads/manual(.|\n)*archive.zip: 3 bytes, SHA-256 ba7816bf"


@pytest.mark.parametrize(
    "path, asked, reason",
    [("/busy.zip", 3, "503"), ("/gone.zip", 1, "404"), ("/moved.zip", 1, "refused")],
)
def test_a_download_that_cannot_be_had(archive, tmp_path, path, asked, reason):
    requests, before = archive(path), time.monotonic()
    with pytest.raises(ConnectionError, match=BY_HAND.format(reason, tmp_path) + rf"(.|\n)*http://127.*{path}"):
        ours.prepare("tiny_archive", tmp_path)
    assert requests == [path] * asked and time.monotonic() - before < 20  # TFDS alone: 11 times, over 200 s where busy


def test_files_put_there_by_hand_are_taken_instead(archive, tmp_path):
    requests = archive("/busy.zip")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "archive.zip").write_bytes(b"abd")
    with pytest.raises(ValueError, match=BY_HAND.format("manual/archive.zip, has wrong checksum", tmp_path)):
        ours.prepare("tiny_archive", tmp_path)
    (manual / "archive.zip").write_bytes(b"abc")
    path = ours.prepare("tiny_archive", tmp_path)
    assert [example["number"] for example in tfds.builder_from_directory(path).as_data_source("train")] == [3]
    assert requests == []


def test_a_download_that_is_something_else(archive, tmp_path):
    archive("/page.zip")
    with pytest.raises(ValueError, match=BY_HAND.format("has wrong checksum", tmp_path)):
        ours.prepare("tiny_archive", tmp_path)


def test_refusals_of_google_drive(archive, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("Failed to obtain confirmation link for GDrive URL https://drive.google.com/uc?id=0")

    archive("/busy.zip")
    monkeypatch.setattr(tfds.download.DownloadManager, "download", refuse)
    with pytest.raises(ConnectionError, match=BY_HAND.format("GDrive URL", tmp_path)):
        ours.prepare("tiny_archive", tmp_path)


def test_the_files_of_the_papers_data_sets_have_names_to_put_them_under(tmp_path):
    expected = {
        "cifar10": ["cifar-10-binary.tar.gz"],
        "lsun/church_outdoor": ["church_outdoor_train_lmdb.zip", "church_outdoor_val_lmdb.zip"],
    }
    for name, files in expected.items():
        said = ours._by_hand(tfds.builder(name, data_dir=tmp_path), name, OSError("no network"))
        assert [line.split(":")[0].strip() for line in said.splitlines() if "SHA-256 " in line and "bytes" in line] == files
    said = ours._by_hand(tfds.builder("celeb_a", data_dir=tmp_path), "celeb_a", OSError("no network"))
    assert "img_align_celeba.zip: 1443490838 bytes" in said and "list_eval_partition.txt" in said


def test_not_prepared(tmp_path):
    for name in ("cifar10", "celeb_a", "lsun/bedroom", "lsun/church_outdoor"):
        with pytest.raises(
            FileNotFoundError, match=f"'{name}' is not prepared(.|\n)*ddim-prepare --name={name} --directory={tmp_path}"
        ):
            load(name, tmp_path)


def test_prepared_in_another_format(prepared, tmp_path, monkeypatch):
    for source in prepared[0].rglob("*"):
        if source.is_file():  # what TFDS leaves when it prepares with its default format
            copy = tmp_path / str(source.relative_to(prepared[0])).replace("array_record", "tfrecord")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes().replace(b"array_record", b"tfrecord"))
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))  # as if it were installed
    for use in (lambda: load("tiny_pictures", tmp_path), lambda: ours.prepare("tiny_pictures", tmp_path)):
        with pytest.raises(ValueError, match="tiny_pictures' as tfrecord(.|\n)*ddim-prepare --name=tiny_pictures"):
            use()


def test_names_and_splits(prepared):
    directory, _ = prepared
    with pytest.raises(ValueError, match="name is 'celeba'; expected .*Did you mean 'celeb_a'"):
        load("celeba", directory)
    with pytest.raises(ValueError, match="'lsun', which is several data sets.*bedroom"):
        load("lsun", directory)
    with pytest.raises(ValueError, match="Unknown split 'valid'. Should be one of .'train', 'test'"):
        load("tiny_pictures", directory, split="valid")


def test_data_without_images(tmp_path):
    TinyNumbers(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(ValueError, match="examples of 'tiny_numbers' have no 'image'; they have number"):
        load("tiny_numbers", tmp_path)


def test_missing_extras(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r'pip install -c constraints.txt -e "\.\[prepare\]"'):
        ours.prepare("cifar10", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -c constraints.txt -e "\.\[tfds\]"'):
        load("cifar10", tmp_path)
