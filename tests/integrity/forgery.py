"""Edits records so that they agree with themselves."""

import json

import numpy as np

from moppa.utils.atomic import sha256_file


def forge(path, num_images):
    """Makes predictions correct, with the count and the digest that go with them."""
    file, content = path.with_suffix(".npz"), json.loads(path.read_text())
    with np.load(file) as arrays:
        edited = dict(arrays)
    wrong = np.flatnonzero(edited["predicted"] != edited["label"])[:num_images]
    assert len(wrong) == num_images
    edited["predicted"][wrong] = edited["label"][wrong]
    np.savez_compressed(file, **edited)
    content |= {"correct": content["correct"] + num_images, "predictions": {"sha256": sha256_file(file)}}
    path.write_text(json.dumps(content))
