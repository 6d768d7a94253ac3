"""Co2L's network in parts: an encoder, a head that learns on it, and the layer that answers.

The encoder is a network without its last layer. Of the other two parts one is on it at a time.

Source: Cha, Lee and Shin 2021 (ICCV; arXiv 2106.14413), section 3.1; chaht01/Co2L at 3af7064,
networks/resnet_big.py: a projection Dense, ReLU, Dense to 128 numbers, of unit length; a linear
layer as PyTorch draws it.
Departs: the linear layer is drawn as the network draws its own last layer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.herding import unit
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.methods.heads import without_head
from cls_jax.nets.base import InitVarsFn, Net, no_head
from cls_jax.nets.extractor import Features
from cls_jax.nets.layers import keeping_dtype
from cls_jax.nets.self_supervised import projection


class Parts(NamedTuple):
    """Pure functions of a model, whose params are {"encoder", "head"}.

    Attributes:
      init: (key, x) -> the model.
      linear: (key, x) -> params of a fresh linear layer.
      project: (model, x, train=…, valid=…) -> float32[b, 128] rows of unit length, statistics.
      logits: (model, linear layer, x, train=…, valid=…) -> float32[b, C], statistics.
    """

    init: InitVarsFn
    linear: Callable[[Array, Array], PyTree]
    project: Callable[..., tuple[Array, PyTree]]
    logits: Callable[..., tuple[Array, PyTree]]


def parts_of(net: Net, dtype: str, *, projects: bool) -> Parts:
    """The parts of a network.

    Args:
      net: with features and a last layer.
      dtype: its compute dtype; the projection has at least float32.
      projects: the head is a projection; or else a linear layer, for a control.

    Raises:
      InputError: the network names no last layer.
    """
    extract, last = net.features, net.head
    projector = projection(str(keeping_dtype(dtype)))
    if extract is None or last is None:
        raise no_head("co2l puts a projection on features, what the last layer is shown", net)

    def init(key: Array, x: Array) -> Variables:
        key_net, key_head = jax.random.split(key)
        vars = net.init(key_net, x)
        head = vars.params[last]
        if projects:
            shape = jax.eval_shape(lambda: extract(vars, x, train=False)[0]).shape
            head = projector.init(key_head, Features(jnp.zeros(shape), None)).params
        return Variables({"encoder": without_head(vars.params, last), "head": head}, vars.stats)

    def linear(key: Array, x: Array) -> PyTree:
        return net.init(key, x).params[last]

    def project(model: Variables, x: Array, *, train: bool, valid: Array) -> tuple[Array, PyTree]:
        encoder = model.replace(params=model.params["encoder"])
        features, stats = extract(encoder, x, train=train, valid=valid)
        head = Variables(model.params["head"], {})
        return unit(projector.apply(head, Features(features, None), train=train)[0]), stats

    def logits(
        model: Variables, layer: PyTree, x: Array, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        whole = model.replace(params={**model.params["encoder"], last: layer})
        return net.apply(whole, x, train=train, valid=valid)

    return Parts(init, linear, project, logits)
