"""Cosine classifiers that grow by classes: logits, imprinting, and the losses of UCIR and SPB.

Features and weights are compared by angle alone: with ``unit(v) = v / |v|``, class c has the logit
``scale * <unit(f), unit(w_c)>``. Weights are allocated for all classes; which of them exist is a
mask, so a new class recompiles nothing.

Source: Hou et al. 2019 (UCIR), sections 3.1 to 3.3; Wu et al. 2021 (SPB), section 3; the spb card.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.choices import Weighting
from cls_jax.core.herding import unit
from cls_jax.core.losses import FLOOR, at_least
from cls_jax.core.types import Array, PyTree, Scalar, Trainable, Variables
from cls_jax.nets.base import Net

SQRT_WEIGHT = 5.0
"""UCIR's ``lambda_base`` on CIFAR-100."""


def initial_weights(key: Array, shape: tuple[int, ...]) -> Array:
    """float32[shape] uniform in +-1 / sqrt(d), d the last axis.

    Source: hshustc/CVPR19_Incremental_Learning, modified_linear.py.
    """
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def cosine_logits(features: Array, weights: Array, scale: Array | float) -> Array:
    """``scale * <features, unit(w_c)>``.

    Args:
      features: float32[..., b, d] of unit length.
      weights: float32[..., C, d] of any length.
      scale: float32[] or float.

    Returns:
      float32[..., b, C].
    """
    return scale * jnp.einsum("...bd,...cd->...bc", features, unit(weights))


def with_cosine_head(net: Net, scale: float) -> Net:
    """``net`` with a last layer that compares angles: ``scale * <unit(f), unit(w_c)>``, no bias.

    Args:
      net: has ``features`` and ``head``; the weights are drawn as it draws its last layer's.
      scale: by which cosines are multiplied, fixed.

    Returns:
      Net; ``params[net.head]`` is {"kernel": float32[d, C]}.
    """

    def init(key: Array, x: Array) -> Variables:
        vars = net.init(key, x)
        head = {"kernel": vars.params[net.head]["kernel"]}
        return vars.replace(params={**vars.params, net.head: head})

    def apply(
        vars: Variables, x: Array, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        assert net.features is not None
        features, stats = net.features(vars, x, train=train, valid=valid)
        weights = vars.params[net.head]["kernel"].T
        return cosine_logits(unit(features), weights, scale), stats

    return net._replace(init=init, apply=apply)


def imprint(weights: Array, prototypes: Array, new: Array, past: Array) -> Array:
    """Weights whose ``new`` rows point to the prototypes, as long as past rows are on average.

    Args:
      weights: float32[C, d].
      prototypes: float32[C, d] mean unit feature of each class.
      new, past: bool[C].

    Returns:
      float32[C, d]; other rows as they were. Without a past class the length is 1.
    """
    lengths = jnp.sqrt(jnp.square(weights).sum(axis=-1))
    mean = (past * lengths).sum() / jnp.maximum(past.sum(), 1)
    length = jnp.where(past.any(), mean, 1.0)
    return jnp.where(new[:, None], length * unit(prototypes), weights)


def embedding_loss(features: Array, old_features: Array, valid: Array) -> Array:
    """Mean over valid rows of ``|f - f_old|^2``, both of unit length: ``2 (1 - cos)``.

    Args:
      features, old_features: float32[b, d] of unit length.
      valid: bool[b].

    Returns:
      float32[] in [0, 4]; 0 without a valid row.

    Source: equation 2 of SPB, twice UCIR's L_dis; card O2: [1, 0] and [.6, .8] give .8.
    """
    square = jnp.square(features - old_features).sum(axis=-1)
    return jnp.where(valid, square, 0).sum() / jnp.maximum(valid.sum(), 1)


def adaptive_weight(base: Array | float, new: Array, past: Array) -> Array:
    """``lambda = lambda_base sqrt(N_o / N_n)``, what the embedding loss is multiplied by.

    Args:
      base: float32[], lambda_base.
      new, past: bool[C] classes of this phase, N_n, and before it, N_o.

    Returns:
      float32[]; 0 without a past class.

    Source: UCIR's less-forget constraint; card O8: of base 5, 50 + 10 classes make 11.180340 and
      90 + 10 make 15.
    """
    return base * jnp.sqrt(past.sum() / jnp.maximum(new.sum(), 1))


def loss_weights(weighting: Weighting, new: Array, past: Array) -> tuple[Array, Array]:
    """What the cross-entropy and the embedding loss are multiplied by, float32[] each.

    "reciprocal" (SPB's RAW): N_new / N_past and N_past / N_new. "equal": 1 and 1. "sqrt" (UCIR):
    1 and ``5 sqrt(N_past / N_new) / 2``, since UCIR's loss is half the embedding loss. "none": 1
    and 0. Without a past class always 1 and 0.

    Args:
      weighting: which rule.
      new, past: bool[C] classes.

    Source: equation 3 of SPB; card O3: (10, 50) give .2 and 5.
    """
    ratio = past.sum() / jnp.maximum(new.sum(), 1)
    first = ~past.any()
    one = jnp.float32(1)
    classify, keep = {
        "reciprocal": (1 / jnp.maximum(ratio, 1e-6), ratio),
        "equal": (one, one),
        "sqrt": (one, adaptive_weight(SQRT_WEIGHT, new, past) / 2),
        "none": (one, jnp.float32(0)),
    }[weighting]
    return jnp.where(first, 1.0, classify), jnp.where(first, 0.0, keep)


def contrastive(views: Array, valid: Array, temperature: Scalar) -> Array:
    """How well a view of an image picks another view of it out of all views of other images.

    ``-log[e^(s_ap) / (e^(s_ap) + sum_t e^(s_at))]`` with ``s = cosine / temperature``, a and p two
    views of one image and t all views of the others; mean over all ordered pairs (a, p).

    Args:
      views: float32[V, b, d], the same images in every view; any length.
      valid: bool[b] images that count.
      temperature: float32[], > 0.

    Returns:
      float32[], in nats; 0 without a valid image.

    Source: equation 4 of SPB (SPB-I); card O7: cosine .9 against .5 and .2 at .1 gives .019045.
    """
    num_views, b, d = views.shape
    z = unit(jnp.where(valid[:, None], views, 0)).reshape(num_views * b, d)
    s = (z @ z.T / temperature).reshape(num_views, b, num_views, b)
    same = jnp.eye(b, dtype=bool)
    other = valid & ~same  # [anchor's image, candidate's image]
    against = jnp.where(other[:, None], s, FLOOR)
    against = jax.nn.logsumexp(against, axis=(2, 3))  # [V, b] of each anchor
    positive = jnp.einsum("aibi->aib", s)  # [anchor's view, image, positive's view]
    each = jnp.logaddexp(positive, against[..., None]) - positive
    pairs = ~jnp.eye(num_views, dtype=bool)[:, None] & valid[:, None]
    return jnp.where(pairs, each, 0).sum() / jnp.maximum(pairs.sum(), 1)


def margin_ranking(
    cosines: Array, y: Array, new: Array, valid: Array, margin: Scalar, hardest: int = 2
) -> Array:
    """How far the ``hardest`` new classes come within ``margin`` of a past image's own class.

    Mean over rows of past classes and over these new classes of ``max(0, margin - cos_y + cos_k)``.

    Args:
      cosines: float32[b, C], not scaled.
      y: int32[b] labels; anything in invalid rows.
      new: bool[C] classes of this phase.
      valid: bool[b].
      margin: float32[], 0.5 in the paper.
      hardest: how many new classes with the largest cosine.

    Returns:
      float32[]; 0 without a valid row of a past class.

    Source: equation 8 of UCIR; card O8: .3 against .6 and .1 gives .55.
    """
    y = jnp.where(valid, y, 0)
    own = jnp.take_along_axis(cosines, y[:, None], axis=-1)
    top = jax.lax.top_k(jnp.where(new, cosines, -2.0), min(hardest, new.size))[0]
    counted = (valid & ~new[y])[:, None] & (top > -2.0)
    terms = jnp.where(counted, at_least(margin - own + top, 0), 0)
    return terms.sum() / jnp.maximum(counted.sum(), 1)


def step_decay(epoch: Array | np.int32, milestones: tuple[int, ...], factor: float = 0.1) -> Array:
    """float32[], ``factor`` to the number of milestones that ``epoch`` has reached.

    Args:
      epoch: int32[].
      milestones: rising epochs.
      factor: > 0.
    """
    reached = (jnp.asarray(epoch) >= jnp.array(milestones, jnp.int32)).sum()
    return factor ** reached.astype(jnp.float32)


def with_params(model: Trainable, **params: Array) -> Trainable:
    """The same model with other values of these entries at the top of its parameter tree."""
    return model.replace(vars=model.vars.replace(params={**model.vars.params, **params}))
