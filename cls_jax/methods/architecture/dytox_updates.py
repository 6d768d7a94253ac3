"""How DyTox's parameters move: which of them do, AdamW's rate in an epoch, and the step of ASAM.

Source: Douillard et al. 2022 (CVPR; arXiv 2111.11326); arthurdouillard/dytox, main.py,
options/model/cifar_dytox.yaml, continual/sam.py; Kwon et al. 2021 (ASAM).
"""

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import DictKey, tree_map_with_path
from jax.typing import ArrayLike

from cls_jax.core.types import Array, PyTree, Scalar

DECAYED = ("kernel", "tokens", "places")
"""Leaves that weight decay makes smaller; not biases, gates and norms."""


def epoch_rate(
    epoch: ArrayLike, rates: tuple[Scalar, Scalar, Scalar], warmup_epochs: int, num_epochs: int
) -> Array:
    """float32[]: the rate in an epoch of a task: a line up, then half a cosine down.

    The schedule is stepped after every epoch and lags by one: epochs 0 and 1 have its start. At
    its place k < warm-up it is on the line from the first rate to the highest, and then at ``last +
    (highest - last) (1 + cos(pi k / n)) / 2``.

    Args:
      epoch: int32[] of the task.
      rates: the first, the highest and the last.
      warmup_epochs: of the line, at least 0.
      num_epochs: n, of the cosine, which has begun with the line; at least 1.

    Source: timm's CosineLRScheduler; dytox card, O1.
    """
    first, highest, last = (jnp.asarray(rate) for rate in rates)
    place = jnp.maximum(jnp.asarray(epoch) - 1, 0)
    line = first + (highest - first) * place / max(warmup_epochs, 1)
    cosine = optax.cosine_decay_schedule(highest - last, num_epochs)(place)  # pyright: ignore[reportArgumentType]
    return jnp.where(place < warmup_epochs, line, last + cosine).astype(highest.dtype)


def moved_by(params: PyTree, tokens: Array, classes: Array, *, encoder: bool) -> PyTree:
    """Which parameters are trained: True, False, or bool rows of a leaf; shaped like ``params``.

    A token moves with its head: its norm, and the rows of the kernel that its classes have.

    Args:
      params: of the network, "divergence" beside them.
      tokens: bool[T].
      classes: bool[C], those of the tokens.
      encoder: whether it is trained, and the divergence head with it.
    """
    heads = {"scale": tokens[:, None], "shift": tokens[:, None]}
    heads |= {"kernel": classes[:, None], "bias": classes}
    whole = {"encoder": encoder, "divergence": encoder, "decoder": True}
    shared = {name: jax.tree.map(lambda _, on=on: on, params[name]) for name, on in whole.items()}
    return {**shared, "tokens": tokens[:, None], "heads": heads}


def only(tree: PyTree, moved: PyTree) -> PyTree:
    """``tree`` with zeros where ``moved`` (of ``moved_by``) says that nothing moves."""

    def leaf(value: Array, on: Array | bool) -> Array:
        if isinstance(on, bool):  # known to the compiler, which then leaves the gradient out
            return value if on else jnp.zeros_like(value)
        return jnp.where(on, value, 0)

    return jax.tree.map(leaf, tree, moved)


def adamw(rate: Scalar, weight_decay: Scalar, moved: PyTree) -> optax.GradientTransformation:
    """AdamW of PyTorch on some of the parameters: the others get no decay either.

    Args:
      rate: float32[].
      weight_decay: of the leaves in DECAYED, times the rate.
      moved: of ``moved_by``.
    """

    def decayed(params: PyTree) -> PyTree:
        return tree_map_with_path(lambda path, _: path[-1] in map(DictKey, DECAYED), params)

    moving = optax.stateless(lambda updates, params: only(updates, moved))
    return optax.chain(moving, optax.adamw(rate, weight_decay=weight_decay, mask=decayed), moving)


def ascended(params: PyTree, gradient: PyTree, radius: Scalar) -> PyTree:
    """Where ASAM takes the gradient: ``p + rho p^2 g / |(|p| g)|``, the norm over all leaves.

    Args:
      params: p.
      gradient: g; zero where a parameter does not move, which then is in no norm.
      radius: rho.

    Source: Kwon et al. 2021, equation 3 without its constant; the card's addenda.
    """
    scaled = jax.tree.map(lambda p, g: jnp.abs(p) * g, params, gradient)
    step = radius / (optax.tree.norm(scaled) + 1e-12)
    return jax.tree.map(lambda p, g: p + step * jnp.square(p) * g, params, gradient)
