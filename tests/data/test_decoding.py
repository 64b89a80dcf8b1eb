"""Crops, colours and sizes. Oracles: images whose pixels are their own coordinates, and filters worked out by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from ddim_jax.data import decoding
from ddim_jax.data.decoding import Form


def coordinates(width, height):
    """RGB image whose pixel at row y, column x is (x, y, 7)."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 7)], axis=-1).astype(np.uint8))


def fit(image, side, channels=3, crop="none"):
    return decoding.fit(image, "a.png", Form((side, side), channels, crop))


def test_celeba_crop_is_rows_57_to_185_and_columns_25_to_153():
    # The paper's released code crops 128x128 around (x, y) = (89, 121).
    image = coordinates(178, 218)
    cropped = fit(image, 128, crop="celeba")
    np.testing.assert_array_equal(cropped, np.asarray(image)[57:185, 25:153])
    assert tuple(cropped[64, 64]) == (89, 121, 7)


def test_celeba_is_resized_after_the_crop():
    small = fit(coordinates(178, 218), 64, crop="celeba").astype(int)
    assert small.shape == (64, 64, 3)
    # Halved with a symmetric filter, inner pixel k of a ramp from 25 is the mean of its two middle ones, 25 + 2k + .5.
    np.testing.assert_allclose(small[30, 1:-1, 0], 25 + 2 * np.arange(1, 63) + 0.5, atol=0.51)
    np.testing.assert_allclose(small[1:-1, 30, 1], 57 + 2 * np.arange(1, 63) + 0.5, atol=0.51)


@pytest.mark.parametrize("width, height, left, top", [(20, 10, 5, 0), (10, 20, 0, 5), (21, 10, 5, 0), (10, 10, 0, 0)])
def test_center_is_the_largest_central_square(width, height, left, top):
    image = coordinates(width, height)
    np.testing.assert_array_equal(fit(image, 10, crop="center"), np.asarray(image)[top : top + 10, left : left + 10])


@pytest.mark.parametrize(
    "width, height, left, top",
    [(16, 8, 0, 0), (20, 8, 2, 0), (16, 20, 0, 6), (17, 8, 0, 0)],
)
def test_center_is_the_largest_central_rectangle_of_the_proportions(width, height, left, top):
    # For 8 high and 16 wide: all that is wider loses its sides, all that is higher its top and bottom.
    image = coordinates(width, height)
    form = Form((8, 16), 3, "center")
    np.testing.assert_array_equal(decoding.fit(image, "a.png", form), np.asarray(image)[top : top + 8, left : left + 16])


def test_a_rectangle_keeps_the_proportions_of_what_it_shows():
    # 120x90 (wide x high) for 16x32 (high x wide): the central 120x60, from row 15, made smaller by 3.75 both ways.
    image = decoding.fit(coordinates(120, 90), "a.png", Form((16, 32), 3, "center")).astype(float)
    assert image.shape == (16, 32, 3)
    # The filter is symmetric, so inner pixel k of a ramp that is sampled with step 3.75 is the ramp at its centre.
    np.testing.assert_allclose(image[8, 2:-2, 0], 3.75 * (np.arange(2, 30) + 0.5) - 0.5, atol=1)
    np.testing.assert_allclose(image[2:-2, 8, 1], 15 + 3.75 * (np.arange(2, 14) + 0.5) - 0.5, atol=1)


def test_rectangles_without_a_crop():
    image = coordinates(12, 8)
    np.testing.assert_array_equal(decoding.fit(image, "a.png", Form((8, 12), 3)), np.asarray(image))
    with pytest.raises(ValueError, match="a.png is 12 wide and 8 high.*expects .* 8 wide and 12 high"):
        decoding.fit(image, "a.png", Form((12, 8), 3))


def test_extreme_proportions_keep_a_pixel():
    assert decoding.fit(coordinates(100, 1), "a.png", Form((10, 1), 3, "center")).shape == (10, 1, 3)


def test_downscaling_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))
    small = fit(stripes, 8, channels=1, crop="center")
    # Without a filter that widens with the scale, every pixel would be 0 or 255.
    np.testing.assert_allclose(small, 127.5, atol=5)


def test_colours():
    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    np.testing.assert_array_equal(fit(grey, 4, channels=1)[..., 0], np.asarray(grey))
    np.testing.assert_array_equal(fit(grey, 4, channels=3), np.asarray(grey)[..., None].repeat(3, -1))
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert (fit(red, 4, channels=1) == 76).all()  # ITU-R 601: 0.299 * 255 = 76.2
    np.testing.assert_array_equal(fit(red.convert("P"), 4), np.asarray(red))
    assert (fit(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), 4) == 255).all()  # transparent is white, whatever lies under it


def test_the_result_is_an_array_of_its_own():
    image = coordinates(8, 8)
    array = fit(image, 8)
    array[:] = 0
    assert array.flags.c_contiguous and np.asarray(image).any()


def test_photos_are_turned_upright():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    coordinates(8, 8).save(file, "PNG", exif=exif)
    expected = np.rot90(np.asarray(coordinates(8, 8)), -1)
    np.testing.assert_array_equal(decoding.read(file, "a.png", Form((8, 8), 3)), expected)


@pytest.mark.parametrize(
    "image, kind, message",
    [
        (
            Image.new("RGB", (100, 120)),
            dict(crop="celeba"),
            "a.png is 100 wide and 120 high.*178 wide and 218 high.*data.crop='center'",
        ),
        (
            Image.new("RGB", (32, 30)),
            dict(crop="none"),
            "a.png is 32 wide and 30 high.*expects .* 32 wide and 32 high.*data.crop='center'",
        ),
        (Image.new("I;16", (32, 32)), dict(crop="none"), "a.png has more than 8 bits.*I;16"),
        (Image.new("F", (32, 32)), dict(crop="center"), "a.png has more than 8 bits"),
    ],
)
def test_images_that_do_not_fit(image, kind, message):
    with pytest.raises(ValueError, match=message):
        fit(image, 32, **kind)


def test_damaged_files():
    file = io.BytesIO()
    coordinates(64, 64).save(file, "JPEG")
    for damaged in (file.getvalue()[:400], b"no image", b""):
        with pytest.raises(ValueError, match="cat.jpg cannot be read as an image"):
            decoding.read(io.BytesIO(damaged), "cat.jpg", Form((64, 64), 3))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(image_size=(0, 8), channels=3), r"data.image_size is \(0, 8\); expected \(height, width\)"),
        (dict(image_size=32, channels=3), r"data.image_size is 32; expected \(height, width\)"),
        (dict(image_size=(32, 32, 3), channels=3), r"data.image_size is \(32, 32, 3\)"),
        (dict(image_size=(7.5, 8), channels=3), r"data.image_size is \(7.5, 8\)"),
        (dict(image_size=(32, 32), channels=4), "data.channels is 4; expected 1"),
        (dict(image_size=(32, 32), channels=3, crop="centre"), "crop is 'centre'; expected one of none, center, celeba"),
        (dict(image_size=(64, 48), channels=3, crop="celeba"), r"'celeba', which takes a square, but .* \(64, 48\)"),
    ],
)
def test_forms_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Form(**fields)
