"""Images as they come: read as a viewer shows them, or refused in one line that names the file."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from moppa.data.decode import decode, to_rgb
from moppa.data.images import hash_picture
from moppa.data.source import Example
from moppa.utils.errors import UserError

GRAYS = np.array([[0, 40], [120, 255]])
ORIENTATION = 0x0112  # the EXIF tag


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pixels(image, **options):
    return np.asarray(to_rgb(image, 1, **options))


@pytest.mark.parametrize(
    ("dtype", "kind"), [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<u2", "PPM"), ("<f4", "TIFF")]
)
def test_sixteen_bits_and_floats_are_scaled_to_eight_bits(dtype, kind):
    values = GRAYS / 255 if dtype == "<f4" else GRAYS * 257
    image = pixels(encoded(Image.fromarray(values.astype(dtype)), kind))
    np.testing.assert_array_equal(image, np.repeat(GRAYS[..., None], 3, axis=2))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_of_an_unknown_range_are_refused(dtype):
    example = Example(encoded(Image.fromarray((GRAYS * 257).astype(dtype)), "TIFF"), 0, "x", file=Path("a/x.tif"))
    with pytest.raises(UserError, match=r"^a/x\.tif cannot be decoded .*range.*save it with 8 or 16 bits"):
        decode(example, "image 0", pixel_scale=1)


def test_an_image_is_turned_as_its_exif_data_say_if_it_is_the_users():
    values = np.zeros((4, 6, 3), np.uint8)
    values[0, :, 0] = 255  # a red line at the top
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a viewer turns it by 90 degrees, clockwise
    image = encoded(Image.fromarray(values), exif=exif)
    np.testing.assert_array_equal(pixels(image), values)
    turned = pixels(image, as_displayed=True)
    assert turned.shape == (6, 4, 3)
    np.testing.assert_array_equal(turned, np.rot90(values, -1))


def test_damaged_exif_data_do_not_make_an_image_unreadable():
    image = encoded(Image.new("RGB", (4, 4), (9, 9, 9)), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert pixels(image, as_displayed=True).max() == 9


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white_if_the_image_is_the_users(mode):
    if mode == "P":
        picture = Image.new("P", (4, 4), 1)
        picture.putpalette([255, 255, 255, 0, 0, 0])
        picture.putpixel((0, 0), 0)
        image = encoded(picture, transparency=1)  # its color is black
    else:
        image = encoded(Image.new(mode, (4, 4), 0))
    np.testing.assert_array_equal(pixels(image, as_displayed=True), np.full((4, 4, 3), 255))
    assert pixels(image)[3, 3].max() == 0  # the benchmark's own images lose their alpha channel


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    picture = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    image = pixels(encoded(picture, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"), as_displayed=True)
    assert (image.shape, image.dtype) == ((4, 4, 3), np.uint8)
    assert image.min() >= 254


def test_the_digest_of_a_picture_depends_on_its_shape():
    wide, high = (Image.new("RGB", size) for size in ((8, 2), (2, 8)))
    assert hash_picture(wide) != hash_picture(high)
    assert hash_picture(wide) == hash_picture(wide.copy())


def huge_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    return encoded(Image.new("RGB", (4, 4)), pnginfo=info)


def bomb():
    return encoded(Image.new("1", (20_000, 20_000)))  # 400 million pixels in 49 kB


def noise(kind):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(values), kind)


BROKEN = {
    "empty": (lambda: b"", "it is empty"),
    "a web page": (lambda: b"<html>404</html>", "not an image of a format that Pillow reads"),
    "a truncated PNG": (lambda: noise("PNG")[:2000], "truncated"),
    "a truncated JPEG": (lambda: noise("JPEG")[:1000], "truncated"),
    "a truncated GIF": (lambda: noise("GIF")[:1000], ""),
    "a truncated TIFF": (lambda: noise("TIFF")[:1000], ""),
    "a header alone": (lambda: noise("PNG")[:20], ""),
    "a changed byte": (lambda: noise("PNG")[:100] + b"\0" + noise("PNG")[101:], ""),
    "a text chunk too large": (huge_text, ""),
    "a decompression bomb": (bomb, "decompression bomb"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_image_that_cannot_be_decoded_is_named_in_one_line(name):
    make, reason = BROKEN[name]
    with pytest.raises(UserError) as error:
        decode(Example(make(), 0, "ring/031.png", file=Path("own/train/ring/031.png")), "image 5", pixel_scale=1)
    text = str(error.value)
    assert text.startswith("own/train/ring/031.png cannot be decoded (")
    assert reason in text
    assert "\n" not in text
    assert " at 0x" not in text


def test_an_image_without_a_file_is_named_by_its_name_or_place():
    for name, place in (("a.jpg", "image a.jpg"), (None, "image 5 of test")):
        with pytest.raises(UserError, match=f"^{place} cannot be decoded .*prepare it again"):
            decode(Example(b"<", 0, name), "5 of test", pixel_scale=1)
