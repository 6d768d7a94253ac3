"""Joint training: all tasks at once, shuffled, by plain SGD; the upper bound.

The runner pools the stream (``Needs.pooled``), so the last row of the accuracy matrix is the score.

Source: aimagelab/mammoth, models/joint.py.
"""

from cls_jax.core.augment import Augment
from cls_jax.methods.base import Method, Needs
from cls_jax.methods.baselines.sgd import sgd
from cls_jax.nets.base import Net


def joint(net: Net, *, augment: Augment) -> Method:
    """SGD over the pooled stream; arguments and hyper as for ``sgd``."""
    return sgd(net, augment=augment)._replace(name="joint", needs=Needs(pooled=True))
