"""Episodic memory as a pytree of slots, and policies that fill it and draw from it.

A memory holds raw examples (uint8 images are augmented after the draw) and any further leaves that
a method wants beside them. Policies are pure functions; decisions depend on the key alone.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array

COUNTED = 2**31 - 1
"""How far int32 counts: more offers than these are held for so many."""

Items = Mapping[str, Array]
"""Leaves with one leading axis, e.g. {"x": uint8[n, h, w, c], "y": int32[n], "task": int32[n]}."""


class Memory(struct.PyTreeNode):
    """``slots``: Items with leading axis ``capacity``; ``seen``: how many were offered."""

    slots: Items
    seen: Array


class Draw(NamedTuple):
    """Rows drawn from a memory.

    Attributes:
      items: Items with leading axis ``size``.
      index: int32[size] their slots.
      valid: bool[size]; False where there was nothing left to draw.
    """

    items: Items
    index: Array
    valid: Array


class SampleFn(Protocol):
    """``size`` different filled slots, uniformly (those in ``where`` bool[capacity] if given)."""

    def __call__(
        self, key: Array, memory: Memory, size: int, *, where: Array | None = None
    ) -> Draw: ...


class MemoryPolicy(NamedTuple):
    """How a memory is filled and read.

    Attributes:
      init: items -> empty Memory; of ``items`` only shapes and dtypes matter.
      add: (key, memory, items, valid bool[n]) -> Memory; leaves that ``items`` lacks keep what the
        slot held before.
      sample: see SampleFn.
      write: (memory, index int32[n], items, valid bool[n]) -> Memory; overwrites some leaves.
      filled: memory -> bool[capacity].
      capacity: number of slots.
    """

    init: Callable[[Items], Memory]
    add: Callable[[Array, Memory, Items, Array], Memory]
    sample: SampleFn
    write: Callable[[Memory, Array, Items, Array], Memory]
    filled: Callable[[Memory], Array]
    capacity: int


def _empty(items: Items, capacity: int) -> Items:
    return {k: jnp.zeros((capacity, *v.shape[1:]), v.dtype) for k, v in items.items()}


def _scatter(slots: Items, index: Array, items: Items, keep: Array) -> Items:
    """Writes rows where ``keep``; of several rows with one index the last wins."""
    later_same = jnp.triu(index[:, None] == index[None, :], k=1) & keep[None, :]
    keep = keep & ~later_same.any(axis=1)
    capacity = next(iter(slots.values())).shape[0]
    index = jnp.where(keep, index, capacity)  # out of bounds: dropped
    return {
        k: v.at[index].set(items[k], mode="drop") if k in items else v for k, v in slots.items()
    }


def order_after(memory: Memory, draw: Draw) -> Memory:
    """The same memory, for writing: what is written to it waits for ``draw`` to be read.

    Without this XLA may see no order between reading and writing one step's memory, and then
    copies the whole of it in every step.
    """
    read = sum(leaf.max().astype(jnp.float32) for leaf in draw.items.values())
    never = (read != read) & (read == 0)  # false, but only the values say so
    return memory.replace(seen=memory.seen + never)


def distinct(key: Array, n: Array, size: int) -> Array:
    """int32[size] different numbers below ``n``, a uniform draw in random order.

    The first ``size`` swaps of a Fisher-Yates shuffle, where step i swaps places i and j_i >= i:
    nothing of the size ``n`` is touched, and chains of swaps are followed by pointer doubling, so
    no step waits for another.

    Args:
      key: of the draw.
      n: int32[]; if it is below ``size``, only the first ``n`` numbers drawn mean anything.
      size: how many.
    """
    place = jnp.arange(size)
    target = jax.random.randint(key, (size,), place, jnp.maximum(n, place + 1))

    def last_swap_with(position: Array) -> Array:
        """Of each step the last earlier one whose target was ``position`` (of that step), or -1."""
        hit = (target[None, :] == position[:, None]) & (place[None, :] < place[:, None])
        return jnp.where(hit, place, -1).max(axis=1)

    mine, before = last_swap_with(place), last_swap_with(target)
    root = jnp.where(mine < 0, place, mine)
    for _ in range((int(size) - 1).bit_length()):
        root = root[root]
    return jnp.where(before < 0, target, root[before])


def _policy(capacity, num_counters, place, filled, *, in_front=False) -> MemoryPolicy:
    """A policy from ``place(key, memory, items, valid) -> (index, keep, seen)`` and ``filled``.

    ``in_front``: the filled slots are always the first ones.
    """

    def init(items: Items) -> Memory:
        seen = jnp.zeros((num_counters,) if num_counters else (), jnp.int32)
        return Memory(slots=_empty(items, capacity), seen=seen)

    def add(key: Array, memory: Memory, items: Items, valid: Array) -> Memory:
        index, keep, seen = place(key, memory, items, valid)
        return Memory(slots=_scatter(memory.slots, index, items, keep), seen=seen)

    def sample(key: Array, memory: Memory, size: int, *, where: Array | None = None) -> Draw:
        if size > capacity:
            raise InputError(
                f"cannot draw {size} different examples from a memory of {capacity} slots; "
                "draw fewer or enlarge the memory"
            )
        eligible = filled(memory) if where is None else filled(memory) & where
        number = eligible.sum()
        index = distinct(key, number, size)
        if where is not None or not in_front:  # from the k-th eligible slot to its index
            # Written out: on a CPU its loop would cost more than what is in it.
            index = jnp.searchsorted(jnp.cumsum(eligible), index + 1, method="scan_unrolled")
            index = jnp.minimum(index, capacity - 1)
        items = {k: v[index] for k, v in memory.slots.items()}
        return Draw(items=items, index=index, valid=jnp.arange(size) < number)

    def write(memory: Memory, index: Array, items: Items, valid: Array) -> Memory:
        return memory.replace(slots=_scatter(memory.slots, index, items, valid))

    return MemoryPolicy(init, add, sample, write, filled, capacity)


def _check_capacity(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {value}; give the memory a slot")


def reservoir(capacity: int) -> MemoryPolicy:
    """A uniform sample of everything offered so far, one item after another.

    The n-th item (from 0) goes to slot n while n < capacity; later it draws r uniformly from
    {0..n} and replaces slot r if r < capacity. After n offers each item is held with probability
    capacity / n. ``Memory.seen`` int32[] counts the offers, up to COUNTED: from there on every item
    replaces another with probability capacity / COUNTED.

    Args:
      capacity: slots.

    Raises:
      InputError: if ``capacity`` is below 1.

    Source: Vitter 1985, algorithm R; aimagelab/mammoth, utils/buffer.py.
    Departs: exact within a batch (DualNet's code freezes n at the start of each batch).
    """
    _check_capacity("memory size", capacity)

    def place(key: Array, memory: Memory, items: Items, valid: Array):
        del items
        seen = memory.seen
        rank = jnp.cumsum(valid, dtype=jnp.int32) - 1
        number = seen + jnp.minimum(rank, COUNTED - 1 - seen)  # of each valid item, from 0
        drawn = jax.random.randint(key, valid.shape, 0, jnp.maximum(number, 0) + 1)
        index = jnp.where(number < capacity, number, drawn)
        offers = jnp.minimum(valid.sum(dtype=jnp.int32), COUNTED - seen)
        return index, valid & (index < capacity), seen + offers

    def filled(memory: Memory) -> Array:
        return jnp.arange(capacity) < memory.seen

    return _policy(capacity, 0, place, filled, in_front=True)


def ring_per_task(num_tasks: int, per_task: int) -> MemoryPolicy:
    """The last examples of each task, in a ring of its own.

    Slots ``t * per_task`` to ``(t + 1) * per_task - 1`` belong to task t (``items["task"]``). A
    batch that reaches the end of the ring is cut there, and the next one starts at the front.
    ``Memory.seen`` int32[num_tasks] counts the items stored, and near COUNTED goes back by whole
    rings, so that a full ring stays full and goes on where it was.

    Args:
      num_tasks: rings.
      per_task: slots a ring.

    Raises:
      InputError: if either is below 1.

    Source: phquang/DualNet, memory of the task-aware learner.
    Departs: fill counts are kept, so a short task never replays an empty slot.
    """
    _check_capacity("num_tasks", num_tasks)
    _check_capacity("memory per task", per_task)

    def place(key: Array, memory: Memory, items: Items, valid: Array):
        del key
        seen = memory.seen
        ring = jax.nn.one_hot(items["task"], num_tasks, dtype=jnp.int32) * valid[:, None]
        # Of each item within its task's part of the batch.
        rank = jnp.cumsum(ring, axis=0, dtype=jnp.int32) - 1
        task = jnp.clip(items["task"], 0, num_tasks - 1)
        slot = seen[task] % per_task + jnp.take_along_axis(rank, task[:, None], axis=1)[:, 0]
        keep = valid & (slot < per_task) & (ring.sum(axis=1) > 0)
        stored = (ring * keep[:, None]).sum(axis=0, dtype=jnp.int32)
        seen = jnp.where(seen > COUNTED // 2, per_task + seen % per_task, seen)
        return task * per_task + slot, keep, seen + stored

    def filled(memory: Memory) -> Array:
        return (jnp.arange(per_task) < memory.seen[:, None]).ravel()

    return _policy(num_tasks * per_task, num_tasks, place, filled)


def class_balanced(capacity: int, num_classes: int) -> MemoryPolicy:
    """The greedy balancing sampler: every class seen has the same share of the slots.

    With K classes in memory an item is stored if its class (``items["y"]``) is new or holds less
    than capacity / K items. In a full memory it takes the place of a random item of the largest
    class (equally large classes are equally likely). ``Memory.seen`` int32[num_classes] counts the
    items held, not those offered.

    Args:
      capacity: slots.
      num_classes: labels are 0 to num_classes - 1.

    Raises:
      InputError: if either is below 1.

    Source: Prabhu et al. 2020 (GDumb), algorithm 1.
    """
    _check_capacity("memory size", capacity)
    _check_capacity("num_classes", num_classes)

    def place(key: Array, memory: Memory, items: Items, valid: Array):
        def one(carry, row):
            count, label = carry  # items held of each class; the class of each slot
            key, y, offered = row
            held, classes = count.sum(), (count > 0).sum()
            share = -(-capacity // jnp.maximum(classes, 1))  # capacity / classes, rounded up
            wanted = offered & ((count[y] == 0) | (count[y] < share))
            largest = (count[label] == count.max()) & (jnp.arange(capacity) < held)
            choice = jax.random.randint(key, (), 0, jnp.maximum(largest.sum(), 1))
            victim = jnp.searchsorted(jnp.cumsum(largest), choice + 1)
            full = held == capacity
            slot = jnp.where(full, victim, held)
            new_count = count.at[label[slot]].add(-full.astype(jnp.int32)).at[y].add(1)
            new = new_count, label.at[slot].set(y)
            return jax.tree.map(lambda a, b: jnp.where(wanted, a, b), new, carry), (slot, wanted)

        rows = jax.random.split(key, valid.size), items["y"], valid
        (count, _), (index, keep) = jax.lax.scan(one, (memory.seen, memory.slots["y"]), rows)
        return index, keep, count

    def filled(memory: Memory) -> Array:
        return jnp.arange(capacity) < memory.seen.sum()

    return _policy(capacity, num_classes, place, filled, in_front=True)
