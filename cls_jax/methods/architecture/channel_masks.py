"""Learnable masks over the units of a perceptron: soft as it learns, binary as it answers.

Unit i of a hidden layer has a number e_i. In training its output is multiplied by ``sigmoid(s
e_i)``, where s rises within every epoch from ``1 / s_max`` to s_max, so that the masks become all
but binary and stay learnable; in an answer it counts if e_i > 0. A mask is never negative, so it
goes through the ReLU: what is multiplied is the layer's kernel and bias.

Source: Yan, Xie and He 2021 (CVPR; arXiv 2103.16788), channel-level masks, after the der_expandable
card, since no code of it was released; Serra et al. 2018 (HAT) for the gradient.
"""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Trainable, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.registry import Networks

MASKS = "masks"
"""Their entry at the top of the parameter tree: {layer: e float32[units]}."""


def hidden_layers(networks: Networks) -> tuple[str, ...]:
    """Names of the layers of nets/mlp.py that have masks.

    Raises:
      InputError: the network is no perceptron with a hidden layer.
    """
    kind, hidden = networks.kind, networks.hidden
    if kind != "mlp" or not hidden:
        raise InputError(
            f"net is {kind!r} with hidden {hidden}, and prune_units masks the units of a "
            "perceptron; use 'mlp' with a hidden layer, or prune_units False"
        )
    return tuple(f"fc{number}" for number in range(1, len(hidden) + 1))


def with_channel_masks(net: Net, layers: Sequence[str]) -> Net:
    """``net`` with a mask over the units of each of these layers; its statistics are {"scale": s}.

    Args:
      net: a perceptron without statistics, ReLU behind each of these layers.
      layers: names of the hidden layers, each with a kernel and a bias, in their order.
    """
    assert net.features is not None
    plain = net.features

    def init(key: Array, x: Array) -> Variables:
        params = net.init(key, x).params
        keys = jax.random.split(jax.random.fold_in(key, 1), len(layers))
        drawn = {
            name: jax.random.normal(k, params[name]["bias"].shape, params[name]["bias"].dtype)
            for name, k in zip(layers, keys, strict=True)
        }
        return Variables(params={**params, MASKS: drawn}, stats={"scale": jnp.float32(1)})

    def features(
        vars: Variables, x: Array, /, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        e = vars.params[MASKS]
        masks = soft_masks(e, vars.stats["scale"]) if train else binary_masks(e)
        params = {name: leaf for name, leaf in vars.params.items() if name != MASKS}
        for name, mask in masks.items():
            params[name] = {kind: leaf * mask for kind, leaf in params[name].items()}
        seen, _ = plain(Variables(params, {}), x, train=train, valid=valid)
        return seen, vars.stats

    return net._replace(init=init, features=features)


def soft_masks(e: Mapping[str, Array], scale: Array) -> dict[str, Array]:
    """Of each layer ``sigmoid(s e)``, float32[units] in (0, 1)."""
    return {name: jax.nn.sigmoid(scale * leaf) for name, leaf in e.items()}


def binary_masks(e: Mapping[str, Array]) -> dict[str, Array]:
    """Of each layer 1 where e > 0, else 0, float32[..., units]."""
    return {name: (leaf > 0).astype(leaf.dtype) for name, leaf in e.items()}


def mask_scale(number: Array, num_batches: Array, largest: int) -> Array:
    """s of a batch: ``1 / s_max + (s_max - 1 / s_max) number / (B - 1)``, float32[].

    Args:
      number: int32[] of the batch within its epoch, from 0.
      num_batches: int32[], B; of later ones s is s_max.
      largest: s_max.

    Source: card O4: with 10 of both .1, 4.5 and 10 of the first, fifth and last.
    """
    risen = jnp.minimum(number / jnp.maximum(num_batches - 1, 1), 1)
    return jnp.asarray(1 / largest + (largest - 1 / largest) * risen, jnp.float32)


def kept_share(params: PyTree, layers: Sequence[str], scale: Array) -> Array:
    """The share of weights that the masks let pass: ``sum |m_{l-1}| |m_l| / sum c_{l-1} c_l``.

    Args:
      params: of the network; none of its c_0 inputs is masked.
      layers: its hidden layers in their order.
      scale: float32[], s.

    Returns:
      float32[] in [0, 1].

    Source: the sparsity loss, whose kernel areas are one number here and cancel; card
      O4: 3 inputs, masks [1, .5, 0, 0] and [1, .25] give .31875.
    """
    masks, num_inputs = soft_masks(params[MASKS], scale), params[layers[0]]["kernel"].shape[0]
    return share_of([masks[name] for name in layers], num_inputs)


def share_of(masks: Sequence[Array], num_inputs: int) -> Array:
    """``kept_share`` of masks float32[units] that are known, behind so many inputs."""
    kept = [jnp.float32(num_inputs), *(mask.sum() for mask in masks)]
    whole = [num_inputs, *(mask.size for mask in masks)]
    passed = sum(a * b for a, b in itertools.pairwise(kept))
    return jnp.asarray(passed / sum(a * b for a, b in itertools.pairwise(whole)))


def compensated(gradient: PyTree, params: PyTree, scale: Array, largest: int) -> PyTree:
    """The gradient, by e as if s were s_max and the sigmoid that of e: s alone decides no speed.

    ``g s_max (cosh(s e) + 1) / (s (cosh(e) + 1))``, the first argument of cosh held within 50.

    Args:
      gradient: by all parameters.
      params: of the network.
      scale: float32[], s.
      largest: s_max.

    Source: HAT, compensation of the embeddings' gradients; joansj/hat, src/approaches/hat.py.
    """

    def of(g: Array, e: Array) -> Array:
        rise = (jnp.cosh(jnp.clip(scale * e, -50, 50)) + 1) / (jnp.cosh(e) + 1)
        return g * rise * largest / scale

    return {**gradient, MASKS: jax.tree.map(of, gradient[MASKS], params[MASKS])}


def held_near(model: Trainable) -> Trainable:
    """The same model with every e within 6 of 0, as in HAT's code."""
    params = model.vars.params
    e = {name: jnp.clip(leaf, -6.0, 6.0) for name, leaf in params[MASKS].items()}
    return model.replace(vars=model.vars.replace(params={**params, MASKS: e}))


def with_scale(model: Trainable, scale: Array) -> Trainable:
    """The same model whose masks are soft with this s in training."""
    return model.replace(vars=model.vars.replace(stats={"scale": scale}))


def numbers_left(params: PyTree, layers: Sequence[str]) -> tuple[Array, Array]:
    """How many weights and biases of the hidden layers are needed to answer, and features.

    Args:
      params: of the network; leaves [n, ...] of several.
      layers: its hidden layers in their order.

    Returns:
      float32[], or float32[n], each.
    """
    units = [(params[MASKS][name] > 0).sum(axis=-1) for name in layers]
    before = [params[layers[0]]["kernel"].shape[-2], *units[:-1]]
    numbers = sum((a + 1) * b for a, b in zip(before, units, strict=True))
    return jnp.asarray(numbers, jnp.float32), jnp.asarray(units[-1], jnp.float32)
