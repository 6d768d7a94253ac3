"""What APD's weights are: shared kernels under masks plus residues; how they are penalised and cut.

Layers go by their path in the network, e.g. "fc1/kernel"; a leaf with T in front has a row a task.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432), equations of APD; jaehong31/APD.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from cls_jax.core.losses import magnitude
from cls_jax.core.types import Array, PyTree, Scalar, Variables
from cls_jax.methods.architecture.apd_consolidation import Groups, group_residue
from cls_jax.methods.heads import check_head, drawn_per_task, index_tree
from cls_jax.nets.base import Net

Layers = dict[str, Array]

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut off at -2 and 2."""


class ApdParams(struct.PyTreeNode):
    """What is trained.

    Attributes:
      shared: sigma, float32[..., out] for each kernel but that of the last layer.
      residues: tau, float32[T, ..., out] for the same kernels.
      masks: v, float32[T, out] for the same kernels.
      own: all other parameters of the network, its last layer's included, float32[T, ...] each.
    """

    shared: Layers
    residues: Layers
    masks: Layers
    own: Layers


def init_params(key: Array, net: Net, x: Array, num_tasks: int) -> Variables:
    """Fresh ApdParams, residues zero, and the network's statistics once a task.

    Args:
      key: for the draw.
      net: names its head.
      x: float32[b, ...] of which only the shape matters.
      num_tasks: T.

    Source: jaehong31/APD: v is drawn like a kernel with as many inputs as it has numbers.
    """
    key_net, key_masks = jax.random.split(key)
    head = check_head("apd", net)
    shared, _ = split_params(net.init(key_net, x).params, head)

    def rest(vars: Variables) -> tuple[Layers, PyTree]:
        return split_params(vars.params, head)[1], vars.stats

    own, stats = drawn_per_task(key_net, net, x, num_tasks, rest)

    def drawn(key: Array, units: int) -> Array:
        std = units**-0.5 / _TRUNCATED_STD
        return std * jax.random.truncated_normal(key, -2.0, 2.0, (num_tasks, units), jnp.float32)

    keys = jax.random.split(key_masks, len(shared))
    masks = {n: drawn(k, shared[n].shape[-1]) for k, n in zip(keys, shared, strict=True)}
    residues = {
        n: jnp.zeros((num_tasks, *kernel.shape), jnp.float32) for n, kernel in shared.items()
    }
    return Variables(params=ApdParams(shared, residues, masks, own), stats=stats)


def split_params(params: PyTree, head: str) -> tuple[Layers, Layers]:
    """A network's kernels but that of the last layer, which are decomposed, and all the rest.

    Args:
      params: of the network.
      head: name of the last layer.
    """
    leaves: dict[str, Any] = flatten_dict(params, sep="/")
    kernels = {n: w for n, w in leaves.items() if w.ndim > 1 and n.split("/")[0] != head}
    return kernels, {n: w for n, w in leaves.items() if n not in kernels}


def merge_params(kernels: Layers, own: Layers) -> PyTree:
    """A network's parameters from the two parts that ``split_params`` gives."""
    return unflatten_dict({**kernels, **own}, sep="/")


def variables_of_task(vars: Variables, kernels: Layers, task: Array) -> Variables:
    """The network's own variables as one task has them.

    Args:
      vars: ApdParams and statistics of all tasks.
      kernels: theta of the task.
      task: int32[].
    """
    own, stats = index_tree(vars.params.own, task), index_tree(vars.stats, task)
    return Variables(params=merge_params(kernels, own), stats=stats)


def composed(shared: Array, mask: Array, residue: Array) -> Array:
    """``sigma * sigmoid(v) + tau``, float32[..., out], one mask entry an output unit.

    Args:
      shared: sigma, float32[..., out].
      mask: v, float32[out].
      residue: tau, float32[..., out].

    Source: apd card, oracle 1: sigma 2 and tau .3 give 1.3 at v = 0 and 1.8 at v = ln 3.
    """
    return shared * jax.nn.sigmoid(mask) + residue


def composed_for(params: ApdParams, task: Array) -> Layers:
    """Every kernel of one task, int32[], without what groups hold in common."""
    return {
        n: composed(sigma, params.masks[n][task], params.residues[n][task])
        for n, sigma in params.shared.items()
    }


def composed_for_all(params: ApdParams) -> Layers:
    """Every kernel of all tasks, float32[T, ..., out], without what groups hold in common."""
    each = jax.vmap(composed, (None, 0, 0))
    return {n: each(s, params.masks[n], params.residues[n]) for n, s in params.shared.items()}


def composed_at_test(
    params: ApdParams, groups: dict[str, Groups], task: Array, size: Scalar
) -> Layers:
    """Every kernel of one task as it answers: pruned, with what its groups hold in common.

    Args:
      params: of the state.
      groups: kernel -> Groups, or {}.
      task: int32[].
      size: up to which entries are pruned, float32[].
    """
    kernels = {}
    for n, sigma in params.shared.items():
        residue = pruned(params.residues[n][task], size)
        if n in groups:
            residue += pruned(group_residue(groups[n], task), size)
        kernels[n] = composed(sigma, params.masks[n][task], residue)
    return kernels


def pruned(residue: Array, size: Scalar) -> Array:
    """``residue`` with 0 for every entry that is not larger than ``size``.

    Source: apd card, oracle 3.
    """
    return jnp.where(jnp.abs(residue) > size, residue, 0)


def drift_penalty(now: Layers, then: Layers, counted: Array) -> Array:
    """``1/2 sum_i ||now_i - then_i||^2`` over the tasks that count, float32[].

    Args:
      now, then: float32[T, ...] each.
      counted: bool[T].

    Source: apd card, oracle 2: .4 of drift in one weight under a mask of 1/2 is .02.
    """
    return 0.5 * sum_of_tasks({n: jnp.square(now[n] - then[n]) for n in now}, counted)


def l1_norm(residues: Layers, counted: Array) -> Array:
    """``sum_i |tau_i|_1`` over the tasks that count, bool[T]; float32[]; gradient 0 at 0."""
    return sum_of_tasks({n: magnitude(leaf) for n, leaf in residues.items()}, counted)


def own_squares(params: ApdParams, task: Array, *, first: Array) -> Array:
    """``1/2 (||tau_t||^2 + ||v_t||^2 + [first] ||sigma||^2)``, float32[].

    Args:
      params: of the state.
      task: int32[], t.
      first: bool[], whether no task was learned before.
    """

    def squares(layers: Layers) -> Array:
        return jnp.asarray(sum(jnp.square(leaf).sum() for leaf in layers.values()))

    residues, masks = index_tree(params.residues, task), index_tree(params.masks, task)
    mine = squares(residues) + squares(masks)
    return 0.5 * (mine + jnp.where(first, squares(params.shared), 0))


def sum_of_tasks(layers: Layers, counted: Array) -> Array:
    """The sum of the rows that count; each row is summed first, so none of the others matters."""
    each = sum(leaf.reshape(len(leaf), -1).sum(-1) for leaf in layers.values())
    return jnp.where(counted, each, 0).sum()
