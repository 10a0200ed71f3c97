"""Lets TFDS prepare data sets without TensorFlow, which most builders use only to open, list and encode files.

Source for what a builder asks of TensorFlow: the code of TFDS 4.9.10.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

PNG_LEVEL = 1  # zlib's fastest: the images are decoded once
JPEG_QUALITY = 95  # TensorFlow's default
CORE = "tensorflow_datasets.core"  # is patched where it needs to be


class NeedsTensorFlowError(ImportError):
    """Names what a builder asked of TensorFlow."""


class StandIn:
    """Has the given members; any other one raises `NeedsTensorFlowError`."""

    def __init__(self, path: str, **members: Any) -> None:
        self.__dict__.update(members, _path=path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NeedsTensorFlowError(f"the builder calls {self._path}.{name}", name="tensorflow")


@contextmanager
def without_tensorflow(builder: Any) -> Iterator[None]:
    """Gives the builder, and what it needs of TFDS, a stand-in for TensorFlow if that is not installed.

    The prepared images have the same pixels, names and order. Folders are listed in sorted order.

    Raises:
        NeedsTensorFlowError: inside of the block, from `download_and_prepare`, if the builder needs more of TensorFlow.
    """
    if find_spec("tensorflow"):
        yield
        return
    from tensorflow_datasets.core import utils
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.core.features import image_feature

    tensorflow = stand_in()
    with ExitStack() as patches:
        patches.enter_context(patch.object(extractor, "tf", tensorflow))
        patches.enter_context(patch.object(image_feature._ImageEncoder, "_encode_image", encode_image))
        patches.enter_context(patch.object(utils, "nogpu_session", lambda: nullcontext(Session())))
        for module in builder_modules(builder):
            patches.enter_context(patch.object(module, "tf", tensorflow))
        if builder.name == "dmlab":
            patches.enter_context(patch.object(type(builder), "_generate_examples", dmlab_examples))
        yield


def builder_modules(builder: Any) -> list[Any]:
    """Returns the modules of the builder's classes in which TensorFlow is called `tf`."""
    names = dict.fromkeys(kind.__module__ for kind in type(builder).__mro__)
    modules = [sys.modules[name] for name in names if name in sys.modules]
    return [module for module in modules if "tf" in vars(module) and not module.__name__.startswith(CORE)]


def stand_in() -> StandIn:
    """Returns what the builders of VTAB ask of TensorFlow: a file system, and the decoder of images."""
    from etils import epath

    gfile = StandIn(
        "tf.io.gfile",
        GFile=lambda path, mode="r": epath.Path(path).open(mode),
        exists=lambda path: epath.Path(path).exists(),
        isdir=lambda path: epath.Path(path).is_dir(),
        listdir=lambda path: sorted(child.name for child in epath.Path(path).iterdir()),
        glob=glob,
        walk=walk,
        makedirs=lambda path: epath.Path(path).mkdir(parents=True, exist_ok=True),
    )
    return StandIn(
        "tf",
        io=StandIn("tf.io", gfile=gfile, encode_jpeg=encode_jpeg),
        compat=StandIn("tf.compat", as_text=as_text),
        image=StandIn("tf.image", decode_image=decode_image),
        errors=StandIn("tf.errors", InvalidArgumentError=ValueError),
        Graph=lambda: SimpleNamespace(as_default=nullcontext),
        shape=np.shape,
    )


def as_text(text: str | bytes) -> str:
    """Returns text that may be encoded as UTF-8."""
    return text.decode() if isinstance(text, bytes) else text


def glob(pattern: str | os.PathLike[str]) -> list[str]:
    """Returns the sorted paths that match a pattern with an absolute folder."""
    from etils import epath

    path = Path(pattern)
    fixed = next(index for index, part in enumerate([*path.parts, "*"]) if any(sign in part for sign in "*?["))
    folder, rest = Path(*path.parts[:fixed]), path.parts[fixed:]
    return sorted(map(str, epath.Path(folder).glob("/".join(rest)))) if rest else [os.fspath(pattern)]


def walk(top: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields each folder from `top` downward with the sorted names of its folders and files, as `os.walk` does."""
    from etils import epath

    children = sorted(epath.Path(top).iterdir(), key=lambda path: path.name)
    folders = [child.name for child in children if child.is_dir()]
    yield str(top), folders, [child.name for child in children if child.name not in set(folders)]
    for name in folders:
        yield from walk(str(epath.Path(top) / name))


class Session:
    """Stands for a session of TensorFlow where every tensor is an array already."""

    def run(self, array: np.ndarray) -> np.ndarray:
        """Returns the array."""
        return array


def encode_image(encoder: Any, image: np.ndarray) -> bytes:
    """Returns an array (H, W, channels) as PNG. In place of `_ImageEncoder._encode_image` of TFDS."""
    from tensorflow_datasets.core.features import image_feature

    image_feature._validate_np_array(image, shape=encoder.shape, dtype=encoder.np_dtype)
    if encoder.encoding_format != "png" or image.dtype != np.uint8 or image.shape[-1] == 2:
        raise NeedsTensorFlowError(
            f"it encodes images of {image.dtype} with {image.shape[-1]} channels as {encoder.encoding_format}",
            name="tensorflow",
        )
    file = io.BytesIO()
    picture(image).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def decode_image(encoded: bytes, channels: int = 0) -> np.ndarray:
    """Returns an encoded image as uint8 (H, W, channels), with its own channels or three."""
    with Image.open(io.BytesIO(encoded)) as opened:
        has_alpha = "A" in opened.getbands() or "transparency" in opened.info
        own = "L" if opened.mode in ("1", "L") else "RGBA" if has_alpha else "RGB"
        array = np.asarray(opened.convert("RGB" if channels == 3 else own))
    return array if array.ndim == 3 else array[..., None]


def encode_jpeg(image: np.ndarray) -> Any:
    """Returns an object whose `numpy()` is the image as JPEG, at the quality and subsampling of TensorFlow."""
    file = io.BytesIO()
    picture(image).save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return SimpleNamespace(numpy=file.getvalue)


def picture(image: np.ndarray) -> Image.Image:
    """Returns an array (H, W, channels) as an image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def dmlab_examples(
    _: Any, images_dir_path: os.PathLike[str], split_name: str
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields the examples of DMLab from its TFRecord files. In place of `Dmlab._generate_examples` of TFDS."""
    from tensorflow_datasets.proto import tf_example_pb2

    for file in glob(f"{images_dir_path}/dmlab-{split_name}.tfrecord*"):
        for record in read_tfrecords(Path(file)):
            example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
            fields = example.features.feature
            filename = fields["filename"].bytes_list.value[0]
            image = io.BytesIO(fields["image"].bytes_list.value[0])
            yield filename, {"image": image, "filename": filename, "label": fields["label"].int64_list.value[0]}


def read_tfrecords(file: Path) -> Iterable[bytes]:
    """Yields the records of a TFRecord file: each is its length (uint64), a checksum, the data and a checksum.

    The checksums are not compared: the sha256 of the download was.

    Raises:
        ValueError: if the file ends within a record.
    """
    with file.open("rb") as opened:
        while header := opened.read(12):
            length = int.from_bytes(header[:8], "little")
            data, checksum = opened.read(length), opened.read(4)
            if len(header) < 12 or len(data) < length or len(checksum) < 4:
                raise ValueError(f"{file} is truncated")
            yield data
