"""Decodes image files of any kind to RGB with 8 bits. What cannot be decoded is an error that names the file."""

import io
from contextlib import suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from moppa.data.source import Example
from moppa.utils.errors import UserError

WHITE = (255, 255, 255, 255)
WITH_ALPHA = ("RGBA", "LA", "PA")
ROUNDING = 1e-6  # by which a float pixel may leave the range from 0 to 1


def decode(example: Example, where: str, *, pixel_scale: int) -> Image.Image:
    """Returns the image of an example as RGB, its values times `pixel_scale` if they are not scaled yet.

    Raises:
        UserError: if it cannot be decoded. It names the image's file, or else its name, or else `where` it is.
    """
    try:
        return to_rgb(example.image, 1 if example.is_scaled else pixel_scale, as_displayed=example.as_displayed)
    except Exception as error:  # Pillow and its decoders raise errors of any type
        place = example.file or f"image {example.name or where}"
        fix = "replace or remove that file" if example.file else "the data set is damaged: prepare it again"
        raise UserError(f"{place} cannot be decoded ({reason(error, example.image)}); {fix}") from error


def reason(error: Exception, image: bytes | np.ndarray) -> str:
    """Returns in words why an image could not be decoded."""
    if len(image) == 0:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):  # its own message shows an address in memory
        return "it is not an image of a format that Pillow reads"
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: bytes | np.ndarray, pixel_scale: int, *, as_displayed: bool = False) -> Image.Image:
    """Returns an encoded image or a uint8 array (H, W) or (H, W, 1 or 3) as RGB, its values times `pixel_scale`."""
    picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else from_array(image)
    picture.load()  # now, because Pillow would wait until the pixels are needed
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = to_8_bits(picture)
    if pixel_scale != 1:
        table = [min(255, value * pixel_scale) for value in range(256)]
        picture = picture.point(table * len(picture.getbands()))
    if as_displayed:
        picture = on_white(turned(picture))
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # converting RGB to RGB would make a copy


def from_array(image: np.ndarray) -> Image.Image:
    """Returns a uint8 array (H, W) or (H, W, 1 or 3) as a picture."""
    return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)


def to_8_bits(picture: Image.Image) -> Image.Image:
    """Returns a gray picture of 16 bits, or of floats from 0 to 1, with 8 bits. Pillow would cut its values off at 255.

    Raises:
        ValueError: if the range of the values is unknown.
    """
    values = np.asarray(picture)
    if picture.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
            raise ValueError(
                f"its float pixels are {values.min():g} to {values.max():g}, and only 0 to 1 is a known range; "
                f"save it with 8 or 16 bits"
            )
        return Image.fromarray(np.clip(np.rint(values * 255), 0, 255).astype(np.uint8))
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # these two store 16 bits, others 32
        raise ValueError("its pixels are 32-bit integers, whose range is unknown; save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8))


def turned(picture: Image.Image) -> Image.Image:
    """Returns a picture turned and mirrored as its EXIF orientation says, if that can be read."""
    with suppress(Exception):  # damaged EXIF data are no reason to refuse the pixels
        return ImageOps.exif_transpose(picture)
    return picture


def on_white(picture: Image.Image) -> Image.Image:
    """Returns a picture with transparent parts on a white ground, and any other picture as it is."""
    if picture.mode not in WITH_ALPHA and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture)
