"""Reservoir and ring against hand-worked cases, a slow loop and the law of large numbers."""

from collections import Counter
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_jax.core.errors import InputError
from cls_jax.core.memory import (
    COUNTED,
    Memory,
    class_balanced,
    distinct,
    order_after,
    reservoir,
    ring_per_task,
)


def offer(policy, memory, numbers, key, task=None, valid=None):
    items = {"x": jnp.asarray(numbers, jnp.int32)}
    if task is not None:
        items["task"] = jnp.asarray(task, jnp.int32)
    valid = jnp.ones(len(numbers), bool) if valid is None else jnp.asarray(valid)
    return policy.add(key, memory, items, valid)


def slow_reservoir(key, slots, seen, numbers, valid):
    """Algorithm R one item at a time, with the same draws."""
    count = seen + np.cumsum(valid) - 1
    drawn = np.asarray(
        jax.random.randint(key, (len(numbers),), 0, jnp.maximum(jnp.asarray(count), 0) + 1)
    )
    slots = list(slots)
    for number, ok, r in zip(numbers, valid, drawn, strict=True):
        if ok:
            slot = seen if seen < len(slots) else int(r)
            if slot < len(slots):
                slots[slot] = number
            seen += 1
    return slots, seen


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1), st.lists(st.booleans(), min_size=8, max_size=8))
def test_reservoir_equals_the_slow_loop(seed, valid):
    policy = reservoir(5)
    memory = policy.init({"x": jnp.zeros(1, jnp.int32)})
    slots, seen = [0] * 5, 0
    for batch in range(4):
        key = jax.random.fold_in(jax.random.key(seed), batch)
        numbers = list(range(1 + batch * 8, 9 + batch * 8))
        slots, seen = slow_reservoir(key, slots, seen, numbers, valid)
        memory = offer(policy, memory, numbers, key, valid=valid)
        assert memory.slots["x"].tolist() == slots
        assert int(memory.seen) == seen


@pytest.mark.parametrize("before", [COUNTED - 5, COUNTED])
def test_a_reservoir_counts_no_further_than_it_can_and_goes_on(before):
    """Past 2^31 offers the count used to become negative, and nothing was drawn any more."""
    policy = reservoir(4)
    empty = policy.init({"x": jnp.zeros(1, jnp.int32)})
    memory = offer(policy, empty, [0, 1, 2, 3], jax.random.key(0))
    memory = memory.replace(seen=jnp.int32(before))
    for batch in range(3):
        memory = offer(policy, memory, range(10, 18), jax.random.key(batch))
        assert int(memory.seen) == COUNTED
        assert policy.filled(memory).all()
        assert policy.sample(jax.random.key(9), memory, 3).valid.all()
    held = memory.slots["x"].tolist()
    assert set(held) <= {0, 1, 2, 3, *range(10, 18)}


def test_an_item_beyond_the_count_is_stored_as_seldom_as_the_last_before():
    """A reservoir of half of all that can be counted would take every other item."""
    policy = reservoir(64)
    place = jax.jit(lambda key, memory: offer(policy, memory, [7] * 64, key).slots["x"])
    empty = policy.init({"x": jnp.zeros(1, jnp.int32)})
    rare = empty.replace(seen=jnp.int32(COUNTED))
    assert not np.any([place(jax.random.key(s), rare) for s in range(20)])  # 64 of 2^31
    often = empty.replace(seen=jnp.int32(128))
    assert np.any(place(jax.random.key(0), often))


def test_a_ring_goes_round_for_ever():
    """Near the end of int32 the count goes back by whole rings: full, and at the same place."""
    policy = ring_per_task(2, 3)
    memory = policy.init({"x": jnp.zeros(1, jnp.int32), "task": jnp.zeros(1, jnp.int32)})
    memory = memory.replace(seen=jnp.array([COUNTED - 1, 2], jnp.int32))
    place = (COUNTED - 1) % 3
    for number in range(1, 7):
        memory = offer(policy, memory, [number], jax.random.key(0), task=[0])
        assert int(memory.slots["x"][place]) == number
        assert policy.filled(memory).tolist() == [True] * 5 + [False]
        place = (place + 1) % 3
    assert int(memory.seen[0]) < 100
    assert int(memory.seen[1]) == 2


def test_reservoir_holds_every_item_equally_often():
    """n = 100 offers in batches of 7, capacity 10: each is held with probability 0.1.

    4000 runs: standard deviation 0.0047; the largest of 100 deviations stays below 0.02 (4.2 sd).
    """
    policy = reservoir(10)

    def one(key):
        memory = policy.init({"x": jnp.zeros(1, jnp.int32)})
        numbers = jnp.pad(jnp.arange(100), (0, 5), constant_values=-1).reshape(15, 7)
        keys = jax.random.split(key, 15)

        def body(memory, part):
            key, row = part
            return policy.add(key, memory, {"x": row}, row >= 0), None

        memory, _ = jax.lax.scan(body, memory, (keys, numbers))
        return jnp.zeros(100).at[memory.slots["x"]].add(1.0)

    held = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 4000)).mean(0)
    assert float(held.sum()) == pytest.approx(10.0)
    assert float(jnp.abs(held - 0.1).max()) < 0.02


def test_reservoir_oracle_of_the_baselines_card():
    """O7: capacity 2, items 0..3, draws for items 2 and 3 = 1 and 3 -> [0, 2]."""
    policy = reservoir(2)
    for seed in range(200):
        key = jax.random.key(seed)
        draws = jax.random.randint(key, (4,), 0, jnp.arange(4) + 1)
        if draws[2] == 1 and draws[3] == 3:
            memory = offer(policy, policy.init({"x": jnp.zeros(1, jnp.int32)}), range(4), key)
            assert memory.slots["x"].tolist() == [0, 2]
            return
    pytest.fail("no key gave the draws of the oracle")


def test_reservoir_oracle_of_the_clser_card(monkeypatch):
    """Oracle 5: capacity 3, stream 0..9, NumPy's legacy generator with seed 0 -> [4, 1, 2]."""
    rng = np.random.RandomState(0)
    draws = np.array([0, 0, 0, *(rng.randint(0, n + 1) for n in range(3, 10))])
    monkeypatch.setattr(jax.random, "randint", lambda *_: jnp.asarray(draws))
    policy = reservoir(3)
    empty = policy.init({"x": jnp.zeros(1, jnp.int32)})
    memory = offer(policy, empty, range(10), jax.random.key(0))
    assert memory.slots["x"].tolist() == [4, 1, 2]


def test_sample_draws_without_replacement_and_uniformly():
    policy = reservoir(6)
    memory = offer(policy, policy.init({"x": jnp.zeros(1, jnp.int32)}), range(4), jax.random.key(0))
    draw = policy.sample(jax.random.key(1), memory, 6)
    assert draw.valid.tolist() == [True] * 4 + [False] * 2
    assert sorted(draw.index[:4].tolist()) == [0, 1, 2, 3]
    np.testing.assert_array_equal(draw.items["x"], memory.slots["x"][draw.index])
    keys = jax.random.split(jax.random.key(2), 4000)
    index = jax.vmap(lambda key: policy.sample(key, memory, 2).index)(keys)
    share = np.bincount(np.ravel(index), minlength=6) / 8000
    np.testing.assert_allclose(share, [0.25] * 4 + [0, 0], atol=0.02)  # sd 0.0048
    where = jnp.array([True, False, False, True, True, True])
    draw = policy.sample(jax.random.key(3), memory, 3, where=where)
    assert sorted(draw.index[draw.valid].tolist()) == [0, 3]


def test_empty_memory_gives_no_valid_row():
    policy = reservoir(3)
    memory = policy.init({"x": jnp.ones((1, 2, 2, 3), jnp.uint8)})
    draw = policy.sample(jax.random.key(0), memory, 2)
    assert not draw.valid.any()
    chex.assert_shape(draw.items["x"], (2, 2, 2, 3))
    with pytest.raises(InputError, match="cannot draw 4 different examples from a memory of 3"):
        policy.sample(jax.random.key(0), memory, 4)


def test_ring_oracle_of_the_dualnet_card():
    """13.9: ring of 50, batches of 32: the second writes 18 and drops 14, the pointer returns."""
    policy = ring_per_task(2, 50)
    memory = policy.init({"x": jnp.zeros(1, jnp.int32), "task": jnp.zeros(1, jnp.int32)})
    key, task = jax.random.key(0), [1] * 32
    memory = offer(policy, memory, range(100, 132), key, task)
    assert memory.slots["x"][50:82].tolist() == list(range(100, 132))
    assert policy.filled(memory).tolist() == [False] * 50 + [True] * 32 + [False] * 18
    memory = offer(policy, memory, range(200, 232), key, task)
    assert memory.slots["x"][82:100].tolist() == list(range(200, 218))
    assert memory.seen.tolist() == [0, 50]
    memory = offer(policy, memory, range(300, 332), key, task)
    assert memory.slots["x"][50:82].tolist() == list(range(300, 332))
    assert policy.filled(memory).tolist() == [False] * 50 + [True] * 50


def test_ring_keeps_tasks_apart_and_skips_padding():
    policy = ring_per_task(2, 2)
    memory = policy.init({"x": jnp.zeros(1, jnp.int32), "task": jnp.zeros(1, jnp.int32)})
    memory = offer(
        policy,
        memory,
        [1, 2, 3, 4, 5],
        jax.random.key(0),
        task=[0, 1, 0, 1, 0],
        valid=[True, False, True, True, True],
    )
    assert memory.slots["x"].tolist() == [1, 3, 4, 0]  # 2 is padding, 5 found the ring full
    assert memory.seen.tolist() == [2, 1]
    memory = offer(policy, memory, [9], jax.random.key(0), task=[-1])  # no such ring
    assert memory.slots["x"].tolist() == [1, 3, 4, 0]


def test_add_keeps_the_leaves_it_is_not_given_and_write_changes_some():
    policy = reservoir(2)
    items = {"x": jnp.array([1, 2]), "soft": jnp.array([[0.5], [0.7]])}
    memory = policy.add(jax.random.key(0), policy.init(items), items, jnp.array([True, True]))
    memory = policy.write(
        memory, jnp.array([1, 0]), {"soft": jnp.array([[9.0], [8.0]])}, jnp.array([True, False])
    )
    np.testing.assert_allclose(memory.slots["soft"], [[0.5], [9.0]])
    again = policy.add(jax.random.key(1), memory, {"x": jnp.array([7] * 30)}, jnp.ones(30, bool))
    assert again.slots["x"].tolist() == [7, 7]
    np.testing.assert_allclose(again.slots["soft"], memory.slots["soft"])


def test_policies_work_under_jit_and_vmap():
    policy = reservoir(4)
    memory = policy.init({"x": jnp.zeros(1, jnp.int32)})
    items, valid = {"x": jnp.arange(1, 9)}, jnp.ones(8, bool)
    keys = jax.random.split(jax.random.key(0), 3)
    trials = jax.jit(jax.vmap(policy.add, in_axes=(0, None, None, None)))(
        keys, memory, items, valid
    )
    for trial, key in enumerate(keys):
        single = policy.add(key, memory, items, valid)
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=trial: leaf[i], trials), single)
    assert isinstance(trials, Memory)


@pytest.mark.parametrize(
    "bad", [lambda: reservoir(0), lambda: ring_per_task(2, 0), lambda: class_balanced(0, 2)]
)
def test_a_memory_needs_a_slot(bad):
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        bad()


# --- drawing --------------------------------------------------------------------------------------


def test_distinct_is_a_uniform_draw_in_random_order():
    """All 60 ordered triples of 5 numbers, each within 5 sigma of its share of 60,000 draws."""
    keys = jax.random.split(jax.random.key(0), 60_000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: distinct(key, 5, 3)))(keys))
    codes, counts = np.unique(draws @ [25, 5, 1], return_counts=True)
    assert len(codes) == 60
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 7), (200, 128), (5120, 32), (3, 8)])
def test_distinct_numbers_are_different_and_below_n(n, size):
    for seed in range(20):
        drawn = np.asarray(distinct(jax.random.key(seed), n, size))[: min(n, size)]
        assert len(set(drawn.tolist())) == len(drawn)
        assert drawn.min() >= 0
        assert drawn.max() < n


def test_after_changes_nothing_but_the_order():
    policy = reservoir(6)
    memory = offer(policy, policy.init({"x": jnp.int32([0])}), range(4), jax.random.key(1))
    draw = policy.sample(jax.random.key(0), memory, 3)
    chex.assert_trees_all_equal(order_after(memory, draw), memory)


@pytest.mark.parametrize("trials", [1, 3])
def test_a_compiled_loop_writes_memory_in_place(trials):
    """XLA copies none of it: the copy would cost more than the step."""
    policy = reservoir(64)
    items = {"x": jnp.zeros((4, 5, 5, 1), jnp.uint8), "y": jnp.zeros(4, jnp.int32)}

    def step(key, memory, total):
        key_draw, key_add = jax.random.split(key)
        draw = policy.sample(key_draw, memory, 8)
        memory = policy.add(key_add, order_after(memory, draw), items, jnp.ones(4, bool))
        return memory, total + draw.items["x"].astype(jnp.float32).sum()

    def loop(keys, memory, total):
        step_of = lambda i, k, m, t: step(jax.random.fold_in(k, i), m, t)  # noqa: E731
        body = lambda i, c: jax.vmap(step_of, in_axes=(None, 0, 0, 0))(i, keys, *c)  # noqa: E731
        return jax.lax.fori_loop(0, 5, body, (memory, total))

    memory = jax.vmap(lambda _: policy.init(items))(jnp.arange(trials))
    keys = jax.random.split(jax.random.key(0), trials)
    compiled = jax.jit(loop, donate_argnums=(1, 2)).lower(keys, memory, jnp.zeros(trials))
    compiled = compiled.compile().as_text()
    shape = f"u8[{trials},64,5,5,1]"
    assert shape in compiled
    copies = [line for line in compiled.splitlines() if f"= {shape}" in line and " copy(" in line]
    assert copies == []


# --- class_balanced -------------------------------------------------------------------------------


@cache
def compiled_balanced(capacity, num_classes):
    policy = class_balanced(capacity, num_classes)
    return policy._replace(add=jax.jit(policy.add))


def empty_balanced(capacity, num_classes):
    policy = compiled_balanced(capacity, num_classes)
    return policy, policy.init({"x": jnp.zeros(1, jnp.int32), "y": jnp.zeros(1, jnp.int32)})


def offer_labels(policy, memory, numbers, y, key, valid=None):
    items = {"x": jnp.asarray(numbers, jnp.int32), "y": jnp.asarray(y, jnp.int32)}
    valid = jnp.ones(len(y), bool) if valid is None else jnp.asarray(valid)
    return policy.add(key, memory, items, valid)


def slow_balanced(key, held, numbers, y, valid, capacity):
    """Algorithm 1 of GDumb, one item at a time, with the same draws; ``held`` is [(x, y)]."""
    held = list(held)
    keys = jax.random.split(key, len(y))
    for key_item, number, label, ok in zip(keys, numbers, y, valid, strict=True):
        counts = Counter(label for _, label in held)
        if not ok or (label in counts and counts[label] >= capacity / len(counts)):
            continue
        if len(held) < capacity:
            held.append((number, label))
            continue
        most = max(counts.values())
        victims = [slot for slot, (_, c) in enumerate(held) if counts[c] == most]
        held[victims[int(jax.random.randint(key_item, (), 0, len(victims)))]] = (number, label)
    return held


@settings(max_examples=25)
@given(
    st.integers(0, 2**31 - 1),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=24, max_size=24),
)
def test_class_balanced_equals_the_slow_loop(seed, capacity, offers):
    policy, memory = empty_balanced(capacity, 4)
    held = []
    for start in range(0, 24, 8):
        key = jax.random.fold_in(jax.random.key(seed), start)
        y, valid = zip(*offers[start : start + 8], strict=True)
        numbers = range(100 + start, 108 + start)
        held = slow_balanced(key, held, numbers, y, valid, capacity)
        garbage = [label if ok else 7 for label, ok in zip(y, valid, strict=True)]
        memory = offer_labels(policy, memory, numbers, garbage, key, valid)
        filled = np.asarray(policy.filled(memory))
        assert filled.tolist() == [True] * len(held) + [False] * (capacity - len(held))
        slots = zip(memory.slots["x"].tolist(), memory.slots["y"].tolist(), strict=True)
        assert list(slots)[: len(held)] == held
        assert memory.seen.tolist() == [sum(c == label for _, c in held) for label in range(4)]


@settings(max_examples=25)
@given(
    st.integers(0, 2**31 - 1),
    st.integers(1, 12),
    st.permutations(range(4)),
    st.lists(st.integers(0, 3), min_size=13, max_size=13),
)
def test_classes_that_offer_enough_share_equally(seed, capacity, order, before):
    """Whatever came before, a memory's worth of each class in turn evens the counts."""
    policy, memory = empty_balanced(capacity, 4)
    y = [*before, *np.repeat(order, 13)]
    numbers = np.arange(1, len(y) + 1)
    for start in range(0, len(y), 13):
        key = jax.random.fold_in(jax.random.key(seed), start)
        part = slice(start, start + 13)
        memory = offer_labels(policy, memory, numbers[part], y[part], key)
        assert int(memory.seen.sum()) <= capacity
    assert int(memory.seen.sum()) == capacity
    assert int(memory.seen.max() - memory.seen.min()) <= 1
    held = np.asarray(memory.slots["x"])
    assert len(set(held.tolist())) == capacity
    assert set(held.tolist()) <= set(numbers.tolist())
    np.testing.assert_array_equal(memory.slots["y"], np.asarray(y)[held - 1])


def test_an_item_gives_way_at_random_within_the_largest_classes():
    """Slots of class 0: 4, class 1: 4, class 2: 1. A third class takes each of the 8 as often."""
    policy, memory = empty_balanced(9, 4)
    memory = offer_labels(policy, memory, range(9), [0, 1] * 4 + [2], jax.random.key(0))
    assert memory.seen.tolist() == [4, 4, 1, 0]
    keys = jax.random.split(jax.random.key(1), 4000)
    slots = jax.vmap(lambda key: offer_labels(policy, memory, [50], [3], key).slots["x"])(keys)
    share = (np.asarray(slots) == 50).mean(0)
    np.testing.assert_allclose(share, [1 / 8] * 8 + [0], atol=0.022)  # sd 0.0052
    full = offer_labels(policy, memory, [50], [0], jax.random.key(2))  # 4 >= 9 / 3
    chex.assert_trees_all_equal(full, memory)
