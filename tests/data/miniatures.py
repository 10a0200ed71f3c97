"""The archives of the data sets of VTAB in their real formats, with a few small images."""

import csv
import gzip
import io
import json
import struct
import tarfile
import zipfile
from functools import cache

import numpy as np
from PIL import Image

GENERATOR = np.random.default_rng(0)


def noise(*shape):
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def encoded(array, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


@cache
def jpeg(height, width, index=0):
    return encoded(noise(height, width, 3))


def packed_tar(files, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def packed_zip(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def cifar100(manual, num=(3, 2)):
    """Each image is its labels and three planes of 32 x 32."""
    images = {"train": noise(num[0], 32, 32, 3), "test": noise(num[1], 32, 32, 3)}
    files = {f"{kind}_label_names.txt": b"\n".join(b"c%d" % i for i in range(n)) for kind, n in
             {"coarse": 20, "fine": 100}.items()}  # fmt: skip
    expected = {}
    for split, arrays in images.items():
        rows = [bytes([i % 20, 99 - i % 100]) + image.transpose(2, 0, 1).tobytes() for i, image in enumerate(arrays)]
        files[f"{split}.bin"] = b"".join(rows)
        expected[split] = [(f"{split}_{i:05d}", 99 - i % 100, image) for i, image in enumerate(arrays)]
    archive = packed_tar({f"cifar-100-binary/{name}": content for name, content in files.items()})
    return {"https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz": archive}, expected


def caltech101(manual):
    names = {"accordion": 31, "BACKGROUND_Google": 32}
    inner = {f"101_ObjectCategories/{name}/image_{i:04d}.jpg": jpeg(9, 8, (name, i))
             for name, count in names.items() for i in range(count)}  # fmt: skip
    state = np.random.RandomState(1234)  # each class draws 30 images; the folders come in sorted order
    expected = {"train": [], "test": []}
    for name, label in {"BACKGROUND_Google": 4, "accordion": 0}.items():
        files = [f"image_{i:04d}.jpg" for i in range(names[name])]
        train = set(state.choice(files, 30, replace=False))
        for file in files:
            split = "train" if file in train else "test"
            expected[split].append((file, label, inner[f"101_ObjectCategories/{name}/{file}"]))
    archive = packed_zip({"caltech-101/101_ObjectCategories.tar.gz": packed_tar(inner)})
    return {"https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1": archive}, expected


def dtd(manual):
    files, expected = {}, {}
    for index, (split, name) in enumerate({"train": "train1", "validation": "val1", "test": "test1"}.items()):
        image = f"banded/banded_{index:04d}.jpg"
        files |= {f"dtd/labels/{name}.txt": f"{image}\n".encode(), f"dtd/images/{image}": jpeg(20, 30, index)}
        expected[split] = [(image, 0, jpeg(20, 30, index))]
    url = "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"
    return {url: packed_tar(files, "w:")}, expected


def matlab(**variables):
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


def oxford_flowers102(manual):
    names = [f"image_{i:05d}.jpg" for i in (1, 2, 3)]
    images = {name: jpeg(20, 30, name) for name in names}
    url = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    splits = {"train": "trnid", "validation": "valid", "test": "tstid"}
    files = {
        f"{url}102flowers.tgz": packed_tar({f"jpg/{name}": image for name, image in images.items()}),
        f"{url}imagelabels.mat": matlab(labels=[[7, 102, 1]]),
        f"{url}setid.mat": matlab(**{name: [[i + 1]] for i, name in enumerate(splits.values())}),
    }
    labels = (6, 101, 0)
    return files, {
        split: [(name, labels[i], images[name])] for i, (split, name) in enumerate(zip(splits, names, strict=True))
    }


def svhn_cropped(manual):
    files, expected = {}, {}
    for split, count in {"train": 3, "test": 2, "extra": 1}.items():
        images, digits = noise(32, 32, 3, count), np.array([[10], [3], [9]][:count], dtype=np.uint8)
        files[f"http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat"] = matlab(X=images, y=digits)
        expected[split] = [(f"{split}_{i:06d}", int(digits[i, 0]) % 10, images[..., i]) for i in range(count)]
    return files, expected


def resisc45(manual):
    names = {"airplane_001.jpg": 0, "wetland_700.jpg": 44}
    images = {name: jpeg(256, 256, name) for name in names}
    put(manual, {f"NWPU-RESISC45/{name[:-8]}/{name}": image for name, image in images.items()})
    return {}, {"train": [(name, names[name], image) for name, image in images.items()]}


def clevr(manual):
    thing = {"color": "red", "material": "metal", "shape": "cube", "size": "large", "rotation": 1.5}
    thing |= {"pixel_coords": [1.0, 2.0, 9.0], "3d_coords": [0.0, 1.0, 2.0]}
    files, expected = {}, {}
    for split, name in {"train": "train", "validation": "val", "test": "test"}.items():
        images = {f"CLEVR_{name}_{i:06d}.png": encoded(noise(20, 30, 3), "PNG") for i in range(2)}
        questions = [{"image_filename": image, "question": "how many?", "answer": "3"} for image in images]
        scenes = [{"objects": [thing] * (3 + i)} for i in range(2)]
        files |= {f"images/{name}/{image}": content for image, content in images.items()}
        files[f"questions/CLEVR_{name}_questions.json"] = json.dumps({"questions": questions}).encode()
        if name != "test":
            files[f"scenes/CLEVR_{name}_scenes.json"] = json.dumps({"scenes": scenes}).encode()
            expected[split] = [(image, i, content) for i, (image, content) in enumerate(images.items())]
    archive = packed_zip({f"CLEVR_v1.0/{name}": content for name, content in files.items()})
    return {"https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip": archive}, expected


def matrix(array):
    """The format of NORB: a magic number, the number of dimensions, at least three dimensions, and the values."""
    magic = {"uint8": 507333717, "int32": 507333716}[array.dtype.name]
    sizes = [*array.shape, 1, 1][: max(3, array.ndim)]
    return gzip.compress(struct.pack(f"<{2 + len(sizes)}i", magic, array.ndim, *sizes) + array.tobytes())


def smallnorb(manual):
    files, expected = {}, {}
    for split, (long, numbers) in {"train": ("training", "46789"), "test": ("testing", "01235")}.items():
        images, info = noise(2, 2, 96, 96), np.array([[4, 8, 34, 5], [9, 0, 2, 1]], dtype=np.int32)
        base = f"https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/smallnorb-5x{numbers}x9x18x6x2x96x96-{long}"
        arrays = {"dat": images, "cat": np.array([4, 0], dtype=np.int32), "info": info}
        files |= {f"{base}-{kind}.mat.gz": matrix(array) for kind, array in arrays.items()}
        expected[split] = [(None, azimuth, images[i, 0]) for i, azimuth in enumerate((17, 1))]
    return files, expected


def hdf5(**arrays):
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        for name, array in arrays.items():
            opened[name.replace("__", "/")] = array
    return file.getvalue()


def patch_camelyon(manual):
    files, expected = {}, {}
    for split, name in {"train": "train", "validation": "valid", "test": "test"}.items():
        images, labels = noise(2, 96, 96, 3), np.array([1, 0], dtype=np.uint8)
        base = f"https://zenodo.org/record/2546921/files/camelyonpatch_level_2_split_{name}"
        files[f"{base}_x.h5.gz"] = gzip.compress(hdf5(x=images), 1)
        files[f"{base}_y.h5.gz"] = gzip.compress(hdf5(y=labels.reshape(2, 1, 1, 1)), 1)
        expected[split] = [(f"{name}_{i}", int(labels[i]), images[i]) for i in range(2)]
    return files, expected


def dsprites(manual):
    images, classes = noise(3, 64, 64) % 2, np.tile([0, 2, 5, 39, 31, 0], (3, 1))
    classes[:, 4] = 0, 16, 31
    url = "https://github.com/deepmind/dsprites-dataset/blob/master/"
    url += "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5?raw=true"
    content = hdf5(imgs=images, latents__classes=classes, latents__values=classes.astype(float))
    return {url: content}, {"train": [(None, i // 2, image) for i, image in zip((0, 16, 31), images, strict=True)]}


def kitti(manual):
    """Twenty videos of one image; the images have three cars, the nearest at depths of 5, 15, 25 ... meters."""
    images = {f"{i:06d}.png": noise(16, 40, 3) for i in range(20)}
    row = "{} 0.00 0 -1.57 1.0 2.0 11.0 12.0 1.5 1.6 3.9 1.0 1.5 {} -1.6\n"
    texts = [row.format("Car", 30 + i) + row.format("Car", 5 + 10 * (i % 7)) + row.format("DontCare", -1)
             for i in range(20)]  # fmt: skip
    base = "https://s3.eu-central-1.amazonaws.com/avg-kitti/"
    mapping = {
        "mapping/train_rand.txt": ",".join(str(i + 1) for i in range(20)).encode(),
        "mapping/train_mapping.txt": "".join(f"2011_09_26 video{i:02d} 0000000000\n" for i in range(20)).encode(),
    }
    labels = [min(i % 7, 2) for i in range(20)]  # below 8 meters, below 20, farther
    files = {
        f"{base}data_object_image_2.zip": packed_zip(
            {f"training/image_2/{name}": encoded(image, "PNG") for name, image in images.items()}
        ),
        f"{base}data_object_label_2.zip": packed_zip(
            {f"training/label_2/{i:06d}.txt": text.encode() for i, text in enumerate(texts)}
        ),
        f"{base}devkit_object.zip": packed_zip(mapping),
    }
    expected = [(name, label, image) for (name, image), label in zip(images.items(), labels, strict=True)]
    return files, {"train+validation+test": expected}


def tfrecords(examples):
    from tensorflow_datasets.proto import tf_example_pb2

    records = []
    for fields in examples:
        example = tf_example_pb2.Example()
        for name, value in fields.items():
            feature = example.features.feature[name]
            (feature.int64_list if isinstance(value, int) else feature.bytes_list).value.append(value)
        data = example.SerializeToString()
        records.append(struct.pack("<Q", len(data)) + bytes(4) + data + bytes(4))
    return b"".join(records)


def dmlab(manual):
    files, expected = {}, {}
    for split in ("train", "validation", "test"):
        examples = [
            {"filename": f"{split}{i}".encode(), "image": jpeg(360, 480, (split, i)), "label": i} for i in range(4)
        ]
        files |= {f"dmlab-{split}.tfrecord-0000{i}-of-00002": tfrecords(examples[i::2]) for i in range(2)}
        expected[split] = [(row["filename"].decode(), row["label"], row["image"]) for row in examples]
    return {"https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz": packed_tar(files)}, expected


def oxford_iiit_pet(manual):
    """One of the two training images is among those that TFDS encodes again: a PNG with an alpha channel."""
    rgba = np.full((20, 24, 4), (200, 100, 50, 128), dtype=np.uint8)
    images = {"Abyssinian_1": jpeg(20, 24), "Egyptian_Mau_139": encoded(rgba, "PNG"), "beagle_2": jpeg(20, 24, 1)}
    lists = {"trainval": "Abyssinian_1 1 1 1\nEgyptian_Mau_139 6 1 2\n", "test": "beagle_2 5 2 2\n"}
    box = b"<a><size><width>24</width><height>20</height></size><object><bndbox><xmin>1</xmin><ymin>2</ymin>"
    box += b"<xmax>9</xmax><ymax>8</ymax></bndbox></object></a>"
    notes = {f"annotations/{name}.txt": text.encode() for name, text in lists.items()}
    notes |= {f"annotations/trimaps/{name}.png": encoded(noise(20, 24) % 3 + 1, "PNG") for name in images}
    notes["annotations/xmls/Abyssinian_1.xml"] = box
    base = "https://thor.robots.ox.ac.uk/~vgg/data/pets/"
    files = {
        f"{base}images.tar.gz": packed_tar({f"images/{name}.jpg": image for name, image in images.items()}, "w:"),
        f"{base}annotations.tar.gz": packed_tar(notes, "w:"),
    }
    train = [("Abyssinian_1.jpg", 0, images["Abyssinian_1"]), ("Egyptian_Mau_139.jpg", 5, rgba[..., :3])]
    return files, {"train": train, "test": [("beagle_2.jpg", 4, images["beagle_2"])]}


def diabetic_retinopathy_detection(manual):
    eye = encoded(np.pad(noise(40, 40, 3) // 2 + 100, ((10, 10), (10, 10), (0, 0))))
    put(manual, {f"{name}.jpeg": eye for name in ("sample/1_left", "train/2_left", "test/3_left", "test/4_right")})
    put(manual, {"trainLabels.csv": b"image,level\n2_left,4\n"})
    labels = io.StringIO()
    csv.writer(labels).writerows([["image", "level", "Usage"], ["3_left", 1, "Public"], ["4_right", 2, "Private"]])
    url = "https://storage.googleapis.com/kaggle-forum-message-attachments/90528/2877/retinopathy_solution.csv"
    expected = {"train": [("2_left", 4, None)], "validation": [("3_left", 1, None)], "test": [("4_right", 2, None)]}
    return {url: labels.getvalue().encode()}, expected


def sun397(manual):
    """Two images of each split; one is of a format that OpenCV cannot read."""
    import tensorflow_datasets as tfds

    files, expected = {}, {}
    labels = tfds.core.tfds_path("image_classification/sun397_labels.txt").read_text().split()
    for split in ("train", "validation", "test"):
        listed = tfds.core.tfds_path(f"image_classification/sun397_tfds_{split[:2]}.txt").read_text().split()[:2]
        kinds = ("JPEG", "TGA") if split == "train" else ("JPEG", "PNG")
        for file, kind in zip(listed, kinds, strict=True):
            files[f"SUN397{file}"] = encoded(noise(20, 30, 3), kind)
        expected[split] = [(file, labels.index(file.rpartition("/")[0]), None) for file in listed]
    base = "https://vision.princeton.edu/projects/2010/SUN/"
    partitions = packed_zip({"Training_01.txt": b""})
    return {f"{base}SUN397.tar.gz": packed_tar(files), f"{base}download/Partitions.zip": partitions}, expected
