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


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_files_hold_the_same_pixels(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (3, 4, channels), np.uint8)
    images.save_png(tmp_path / "image.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image.png")).reshape(image.shape), image)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grids_of_rectangles(channels):
    tiles = np.random.default_rng(0).integers(0, 256, (3, 4, 7, channels), np.uint8)  # H = 4, W = 7
    sheet = images.grid(tiles, gap=1)
    assert sheet.shape == (2 * 5 + 1, 2 * 8 + 1, channels)
    for place, tile in zip([(1, 1), (1, 9), (6, 1)], tiles, strict=True):
        np.testing.assert_array_equal(sheet[place[0] :, place[1] :][:4, :7], tile)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.zeros((4, 4, 8), np.uint8), "1, 3 or 4 channels; this is uint8 with 8 channels .*latents"),
        (np.zeros((4, 4, 2), np.uint8), "with 2 channels"),
        (np.zeros((4, 4, 3), np.float32), "expects uint8 .* this is float32 .*to_uint8"),
    ],
)
def test_what_is_no_picture(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        images.save_png(tmp_path / "a.png", wrong)
    with pytest.raises(ValueError, match=message):
        images.grid(wrong[None])
    assert not list(tmp_path.iterdir())


def test_axes_that_are_missing(tmp_path):
    with pytest.raises(ValueError, match=r"one picture \[H, W, C\]; this has shape \(4, 4\)"):
        images.save_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"a grid expects .* this has shape \(4, 4, 3\)"):
        images.grid(np.zeros((4, 4, 3), np.uint8))


def test_masks(tmp_path):
    white = np.zeros((4, 6), bool)
    white[1:3, 2:5] = True
    Image.fromarray(white.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(images.load_mask(tmp_path / "mask.png", (4, 6, 3)), white[..., None])
    with pytest.raises(ValueError, match="mask.png is 6 wide and 4 high, but the images are 4 wide and 6 high"):
        images.load_mask(tmp_path / "mask.png", (6, 4, 3))
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="the mask .*notes.txt cannot be read as an image"):
        images.load_mask(tmp_path / "notes.txt", (4, 6, 3))
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        images.load_mask(tmp_path / "nowhere.png", (4, 6, 3))


def test_npz_files_join_their_batches(tmp_path):
    whole = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), np.uint8)
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


@pytest.mark.parametrize(
    "batches, message",
    [
        ([np.zeros((2, 4, 6, 3), np.float32)], r"expects batches of uint8 \(4, 6, 3\); this is float32"),
        ([np.zeros((2, 6, 4, 3), np.uint8)], r"this is uint8 \(6, 4, 3\)"),
        ([np.zeros((1, 4, 6, 3), np.uint8)], "was to hold 2 images, and 1 were given"),
    ],
)
def test_npz_of_other_images_is_no_file(tmp_path, batches, message):
    with pytest.raises(ValueError, match=message), images.npz_writer(tmp_path / "a.npz", "samples", (2, 4, 6, 3)) as append:
        for batch in batches:
            append(batch)
    assert not list(tmp_path.iterdir())
