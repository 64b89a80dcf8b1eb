"""Pixels, grids and files. Oracles: all 256 values, arithmetic by hand, and files read back."""

import numpy as np
import pytest
from PIL import Image

from ddim_jax.data import images


def test_every_pixel_value_comes_back():
    values = np.arange(256, dtype=np.uint8)
    x = images.to_float(values)
    assert x.dtype == np.float32 and (x[0], x[255]) == (-1, 1)
    back = images.to_uint8(x)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, values)


def test_out_of_range_is_clipped():
    np.testing.assert_array_equal(images.to_uint8(np.array([-9.0, -1.0, 0.0, 1.0, 9.0])), [0, 0, 128, 255, 255])


def test_grid_by_rows_and_columns():
    tiles = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1).repeat(4, 2).repeat(5, 3)
    sheet = images.grid(tiles, gap=1, background=9)
    assert sheet.shape == (2 * 5 + 1, 3 * 6 + 1, 1)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(sheet[row * 5 + 1 : row * 5 + 5, column * 6 + 1 : column * 6 + 6], tiles[row, column])
    assert (sheet[::5] == 9).all() and (sheet[:, ::6] == 9).all()


def test_grid_of_a_list_is_as_square_as_can_be():
    sheet = images.grid(np.zeros((5, 4, 4, 3), np.uint8), gap=0, background=200)
    assert sheet.shape == (8, 12, 3)
    assert (sheet[4:, 8:] == 200).all() and (sheet[:4] == 0).all()


def test_a_whole_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with images.whole(path) as part:
        part.write_bytes(b"old")
        assert not path.exists()
    with images.whole(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no space"), images.whole(path) as part:
        part.write_bytes(b"ne")
        raise OSError("no space left on device")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_same_pixels(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (3, 4, channels), np.uint8)
    images.save_png(tmp_path / "image.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image.png")).reshape(image.shape), image)


def test_npz_files_join_their_batches(tmp_path):
    whole = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
    with images.npz_writer(tmp_path / "out" / "samples.npz", "samples", whole.shape) as append:
        append(whole[:4])
        append(whole[4:])
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "samples.npz")["samples"], whole)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["samples.npz"]


def test_npz_that_breaks_off_is_no_file(tmp_path):
    with pytest.raises(RuntimeError), images.npz_writer(tmp_path / "samples.npz", "samples", (4, 1, 1, 1)) as append:
        append(np.zeros((2, 1, 1, 1), np.uint8))
        raise RuntimeError("the device went away")
    assert not list(tmp_path.iterdir())
