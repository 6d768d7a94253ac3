"""Images as APD's released code reads them: rows of the colour planes taken for pixels."""

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset, Split


def scrambled(source: Dataset) -> Dataset:
    """The same data set with pixels as APD's released code sees CIFAR's.

    The files hold the red plane, then the green, then the blue; read as rows of pixels, three
    horizontal neighbours of one plane become the channels of a pixel:
    ``seen[h, w, c] = planes.ravel()[(h width + w) channels + c]``. Of use only beside numbers that
    were published with that code.

    Args:
      source: images.

    Raises:
      InputError: for vectors, and for data that is not sound.

    Source: apd card, section 5 and oracle 8; jaehong31/APD, its reader of CIFAR-100.
    """
    source = checked(source)
    if source.train.x.ndim != 4:
        raise InputError(f"{source.name} holds vectors, which have no planes; leave out scrambled")

    def read(split: Split) -> Split:
        planes = np.ascontiguousarray(np.moveaxis(split.x, -1, 1))
        return Split(planes.reshape(split.x.shape), split.y)

    return source._replace(
        name=f"{source.name} scrambled", train=read(source.train), test=read(source.test)
    )
