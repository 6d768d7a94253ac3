"""What APD's weights are: shared kernels under masks plus residues; what is trained, cut and kept.

Layers go by their path in the network, e.g. "fc1/kernel"; a leaf with T in front has a row a task.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432), equations of APD; jaehong31/APD.
"""

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from cls_jax.core.losses import magnitude
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.methods.architecture.apd_consolidation import Groups, held
from cls_jax.methods.heads import drawn_per_task, head_numbers, row
from cls_jax.nets.base import Net

Layers = dict[str, Array]

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut off at -2 and 2."""


@struct.dataclass
class ApdParams:
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


def born(key: Array, net: Net, x: Array, num_tasks: int) -> Variables:
    """Fresh ApdParams, residues zero, and the network's statistics once a task.

    Args:
      key: for the draw.
      net: names its head.
      x: float32[b, ...] of which only the shape matters.
      num_tasks: T.

    Source: jaehong31/APD: v is drawn like a kernel with as many inputs as it has numbers.
    """
    key_net, key_masks = jax.random.split(key)
    shared, _ = apart(net.init(key_net, x).params, net.head)
    rest = lambda vars: (apart(vars.params, net.head)[1], vars.stats)  # noqa: E731
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


def apart(params: PyTree, head: str) -> tuple[Layers, Layers]:
    """A network's kernels but that of the last layer, which are decomposed, and all the rest.

    Args:
      params: of the network.
      head: name of the last layer.
    """
    leaves = flatten_dict(params, sep="/")
    kernels = {n: w for n, w in leaves.items() if w.ndim > 1 and n.split("/")[0] != head}
    return kernels, {n: w for n, w in leaves.items() if n not in kernels}


def together(kernels: Layers, own: Layers) -> PyTree:
    """A network's parameters: what ``apart`` took apart."""
    return unflatten_dict({**kernels, **own}, sep="/")


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
    params: ApdParams, groups: dict[str, Groups], task: Array, size: Array
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
            residue += pruned(held(groups[n], task), size)
        kernels[n] = composed(sigma, params.masks[n][task], residue)
    return kernels


def pruned(residue: Array, size: Array) -> Array:
    """``residue`` with 0 for every entry that is not larger than ``size``.

    Source: apd card, oracle 3.
    """
    return jnp.where(jnp.abs(residue) > size, residue, 0)


def way(now: Layers, then: Layers, counted: Array) -> Array:
    """``1/2 sum_i ||now_i - then_i||^2`` over the tasks that count, float32[].

    Args:
      now, then: float32[T, ...] each.
      counted: bool[T].

    Source: apd card, oracle 2: .4 of way in one weight under a mask of 1/2 is .02.
    """
    return 0.5 * _of_tasks({n: jnp.square(now[n] - then[n]) for n in now}, counted)


def absolute(residues: Layers, counted: Array) -> Array:
    """``sum_i |tau_i|_1`` over the tasks that count, bool[T]; float32[]; gradient 0 at 0."""
    return _of_tasks({n: magnitude(leaf) for n, leaf in residues.items()}, counted)


def own_squares(params: ApdParams, task: Array, *, first: Array) -> Array:
    """``1/2 (||tau_t||^2 + ||v_t||^2 + [first] ||sigma||^2)``, float32[].

    Args:
      params: of the state.
      task: int32[], t.
      first: bool[], whether no task was learned before.
    """
    squares = lambda layers: sum(jnp.square(leaf).sum() for leaf in layers.values())  # noqa: E731
    mine = squares(row(params.residues, task)) + squares(row(params.masks, task))
    return 0.5 * (mine + jnp.where(first, squares(params.shared), 0))


def _of_tasks(layers: Layers, counted: Array) -> Array:
    """The sum of the rows that count; each row is summed first, so none of the others matters."""
    each = sum(leaf.reshape(len(leaf), -1).sum(-1) for leaf in layers.values())
    return jnp.where(counted, each, 0).sum()


def numbers_kept(
    params: ApdParams,
    stats: PyTree,
    groups: dict[str, Groups],
    size: Array,
    classes: Array,
    learned: Array,
    head: str,
) -> Array:
    """How many numbers are kept to answer the tasks learned, float32[].

    The shared kernels; of the residues, and once a group of what is held in common, the entries
    that pruning leaves; masks, biases and the like of each task, and of its last layer the columns
    of its classes. Where the entries lie is not counted.

    Args:
      params, stats: of the state.
      groups: kernel -> Groups.
      size: up to which entries are pruned.
      classes: bool[T, C] of each task.
      learned: bool[T].
      head: name of the last layer.

    Source: apd card, section 6: everything needed at test, what is in common once a group.
    """
    head, rest = of_the_head(params.own, head)
    total = _of_weights(params, groups, size, learned)
    total += jnp.where(learned, head_numbers(head, classes), 0).sum()
    of_one_task = jax.tree.leaves((rest, stats))
    total += sum(leaf[0].size for leaf in of_one_task) * learned.sum()
    return jnp.asarray(total, jnp.float32)


def official_percent(
    params: ApdParams,
    stats: PyTree,
    groups: dict[str, Groups],
    size: Array,
    classes: Array,
    learned: Array,
    head: str,
    task: Array,
) -> Array:
    """The capacity that the official code prints after a task, in percent; float32[].

    Above: the shared kernels, residues and what groups hold as pruning leaves them, and the masks
    of all tasks; last layer, biases and the like of this task alone. Below: the shared kernels and
    the last layers of the earlier tasks, without biases. So what each task has of its own beside
    residues and masks is above once, however many there are, and below for all but one.

    Args:
      params, stats, groups, size, classes, learned, head: as for ``numbers_kept``.
      task: int32[], the task learned last.

    Source: jaehong31/APD, cifar100_apd_run.py, "Updated Memory Requirements".
    Departs: where groups are found anew, it counts those before beside them.
    """
    head, rest = of_the_head(params.own, head)
    total = _of_weights(params, groups, size, learned)
    total += head_numbers(head, classes)[task]
    total += sum(leaf[0].size for leaf in jax.tree.leaves((rest, stats)))
    kernels = {n: leaf for n, leaf in head.items() if leaf.ndim > 2}
    earlier = jnp.where(learned.at[task].set(False), head_numbers(kernels, classes), 0).sum()
    base = sum(leaf.size for leaf in params.shared.values()) + earlier
    return jnp.asarray(100 * total / base, jnp.float32)


def _of_weights(params: ApdParams, groups: dict[str, Groups], size: Array, learned: Array) -> Array:
    """Numbers of the shared kernels, of residues and groups as pruning leaves them, of masks."""
    left = lambda leaf: (jnp.abs(leaf) > size).astype(jnp.float32)  # noqa: E731
    total = sum(leaf.size for leaf in params.shared.values())
    total += _of_tasks({n: left(leaf) for n, leaf in params.residues.items()}, learned)
    for of_layer in groups.values():
        slots = jnp.arange(len(of_layer.common))[:, None]
        used = ((of_layer.member == slots) & learned).any(-1)
        total += _of_tasks({"": left(of_layer.common)}, used)
    return total + sum(leaf[0].size for leaf in params.masks.values()) * learned.sum()


def one_network(params: ApdParams, stats: PyTree, classes: Array, head: str) -> Array:
    """How many numbers a plain network for one task has, the largest of them; float32[].

    Args:
      params, stats, classes, head: as for ``numbers_kept``.
    """
    head, rest = of_the_head(params.own, head)
    of_one_task = jax.tree.leaves((rest, stats))
    numbers = sum(leaf[0].size for leaf in of_one_task)
    numbers += sum(leaf.size for leaf in params.shared.values())
    return jnp.asarray(numbers + head_numbers(head, classes).max(), jnp.float32)


def of_the_head(own: Layers, head: str) -> tuple[Layers, Layers]:
    """The leaves of the last layer, and the others."""
    mine = {n: leaf for n, leaf in own.items() if n.split("/")[0] == head}
    return mine, {n: leaf for n, leaf in own.items() if n not in mine}
