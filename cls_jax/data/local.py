"""What the user's own files share: the fixed test fifth, and pictures made of one size."""

import numpy as np

from cls_jax.core.errors import InputError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow mode


def held_out(labels: np.ndarray) -> np.ndarray:
    """bool[n], True for the fixed test fifth of a set without a split of its own.

    Within each class the second of every five examples, in the order given, is held out: every
    class with two examples is on both sides, and neither a seed nor a library version changes it.
    """
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[1::5]] = True
    return mask


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8[size, size, c] from uint8[h, w, c]: bilinear, antialiased when it shrinks (Pillow)."""
    from PIL import Image

    if image.shape[:2] == (size, size):
        return image
    channels = image.shape[2]
    if channels not in _MODES:
        raise InputError(f"size={size} needs images of 1, 3 or 4 channels, got {channels}")
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image, _MODES[channels])
    resized = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, channels)
