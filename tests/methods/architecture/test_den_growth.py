"""How DEN's network grows: the card's oracles, and each operation beside plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.losses import binary_cross_entropy
from cls_jax.methods.architecture.den import den
from cls_jax.methods.architecture.den_growth import (
    add_units,
    drift,
    group_soft_threshold,
    init_new_units,
    prune_units,
    relevant_units,
    soft_threshold,
    split_units,
    units_to_split,
)
from cls_jax.methods.heads import annealed_adam
from cls_jax.nets.den import (
    active,
    bias_limit,
    connections,
    forward,
    glorot,
    half_squared_where,
    kernel_limit,
    num_parameters,
)

INPUTS, CLASSES, TASKS = 6, 3, 3


def stamps_of(*counts, room):
    """A layer each: so many units of task 1, of task 2, ..., then ``room`` free places."""
    rows = [np.repeat(np.arange(1, len(c) + 1), c) for c in counts]
    return tuple(jnp.asarray(np.append(r, np.zeros(room, int)), jnp.int32) for r in rows)


def network(stamps, seed=0, num_inputs=INPUTS):
    """Random everywhere among the units that are there, in all heads; 0 in free places."""
    rng, layers, below = np.random.default_rng(seed), [], np.ones(num_inputs, bool)
    for stamp in stamps:
        there = np.asarray(stamp) > 0
        kernel = rng.normal(size=(below.size, there.size)) * below[:, None] * there
        bias = rng.normal(size=there.size) * there
        layers.append({"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)})
        below = there
    kernel = rng.normal(size=(TASKS, below.size, CLASSES)) * below[:, None]
    heads = {"kernel": jnp.float32(kernel), "bias": jnp.float32(rng.normal(size=(TASKS, CLASSES)))}
    return {"body": tuple(layers), "heads": heads}


def free_places_are_zero(params, stamps):
    """Whether all that belongs to a free place is exactly 0."""
    below = np.ones(params["body"][0]["kernel"].shape[0], bool)
    for layer, stamp in zip(params["body"], stamps, strict=True):
        there = np.asarray(stamp) > 0
        kernel = np.asarray(layer["kernel"])
        if kernel[~below].any() or kernel[:, ~there].any() or layer["bias"][~there].any():
            return False
        below = there
    return not np.asarray(params["heads"]["kernel"])[:, ~below].any()


# --- the card's oracles ---------------------------------------------------------------------------


def test_oracle_1_the_proximal_step_of_l1():
    found = soft_threshold(jnp.array([0.5, -2e-5, 5e-6]), 1e-5)
    np.testing.assert_allclose(found, [0.49999, -1e-5, 0], rtol=1e-6)
    assert found[2] == 0


def test_oracle_2_the_proximal_step_of_the_group_lasso():
    found = group_soft_threshold(jnp.array([[3e-4, 3.0, 0], [4e-4, 4.0, 0]]), 1e-3)
    np.testing.assert_allclose(found, [[0, 2.9994, 0], [0, 3.9992, 0]], rtol=1e-6)


def test_no_shrinking_changes_no_bit():
    w = jax.random.normal(jax.random.key(0), (7, 5))
    np.testing.assert_array_equal(group_soft_threshold(w, 0.0), w)
    np.testing.assert_array_equal(soft_threshold(w, 0.0), w)


def test_oracle_3_the_limits_of_fresh_values():
    sizes = (784, 312), (312, 128), (128, 10)
    expected = 0.0739895, 0.1167748, 0.2085144
    np.testing.assert_allclose([kernel_limit(*map(jnp.float32, s)) for s in sizes], expected, 1e-6)
    np.testing.assert_allclose(bias_limit(jnp.float32(312)), 0.0980581, rtol=1e-6)


def test_oracle_3_fresh_values_reach_their_limits_and_no_free_place():
    stamps = stamps_of((312,), (128,), room=20)
    body, head = glorot(jax.random.key(0), 784, active(stamps), 10)
    for values, there, limit in (
        (body[0]["kernel"], np.s_[:, :312], 0.0739895),
        (body[1]["kernel"], np.s_[:312, :128], 0.1167748),
        (head["kernel"], np.s_[:128], 0.2085144),
        (body[0]["bias"], np.s_[:312], 0.0980581),
    ):
        values = np.array(values)
        assert 0.98 * limit < np.abs(values[there]).max() <= limit
        assert abs(values[there].mean()) < 0.1 * limit
        values[there] = 0
        assert not values.any()


def test_oracle_4_the_rate_falls_with_the_epochs_of_the_released_code():
    """Adam on a constant gradient moves by the rate."""
    optimizer = annealed_adam(*map(jnp.float32, (1e-3, 0.95)), 215)
    known = den.signature.arguments
    assert (known["learning_rate"].default, known["annealing_rate"].default) == (1e-3, 0.95)

    def body(opt, _):
        update, opt = optimizer.update(jnp.float32(1), opt)
        return opt, -update

    _, rates = jax.lax.scan(body, optimizer.init(jnp.float32(0)), length=4301)
    np.testing.assert_allclose(rates[jnp.array([0, 214, 215])], [1e-3, 1e-3, 9.5e-4], rtol=1e-4)
    np.testing.assert_allclose(rates[4300], 3.584859e-4, rtol=1e-4)


def test_oracle_5_what_is_relevant():
    """Any class counts: by class 0 alone, unit 1 of the upper layer would be missed."""
    upper = {"kernel": jnp.array([[1, 0, 0], [0, 0, 0.5]]), "bias": jnp.zeros(3)}
    lower = {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}
    found = relevant_units((lower, upper), jnp.array([[0, 0], [0, 0.2], [0.1, 0]]))
    np.testing.assert_array_equal(found[1], [False, True, True])
    np.testing.assert_array_equal(found[0], [False, True])


def test_oracle_6_those_that_moved_most_are_split():
    order, far = units_to_split(jnp.array([0.01, 0.2, 0.06, 0.9]), jnp.float32(0.05), 2)
    assert order[far].tolist() == [3, 1]
    order, far = units_to_split(jnp.array([0.01, 0.2, 0.06, 0.9]), jnp.float32(0.5), 4)
    assert order[far].tolist() == [3]


def test_oracle_7_drift_and_its_price():
    now, before = jnp.array([[1.3], [2.4], [9.0]]), jnp.array([[1.0], [2.0], [0.0]])
    old = jnp.array([True, True, False])
    np.testing.assert_allclose(drift(now, before, old), [0.5], rtol=1e-6)
    moved = half_squared_where({"w": now - before}, {"w": jnp.array([[True], [True], [False]])})
    np.testing.assert_allclose(0.5 * moved, 0.0625, rtol=1e-6)


@pytest.mark.more
def test_oracle_8_widths_after_the_second_task():
    """312 and 128 units; 7 and 5 of ten added stay, 2 and 1 are split: 321 and 134."""
    stamps = stamps_of((312,), (128,), room=20)
    before = network(stamps, num_inputs=784)
    stamps, refused = add_units(stamps, jnp.int32(2), jnp.int32(10))
    assert [int((s == 2).sum()) for s in stamps] == [10, 10]
    params = init_new_units(
        jax.random.key(0), before, active(stamps, 1), active(stamps), jnp.int32(1)
    )
    first, second = params["body"]
    first = {**first, "kernel": first["kernel"].at[:, 314:317].set(0)}
    second = {**second, "kernel": second["kernel"].at[:, 130:135].set(0)}
    params, stamps = prune_units({**params, "body": (first, second)}, stamps, jnp.int32(2))
    assert [int((s > 0).sum()) for s in stamps] == [319, 133]

    first, second = params["body"]
    first = {**first, "kernel": first["kernel"].at[0, jnp.array([5, 300])].add(1)}
    second = {**second, "kernel": second["kernel"].at[3, 100].add(1)}
    params = {**params, "body": (first, second)}
    args = jnp.int32(1), jnp.float32(0.05), 10
    params, stamps, more = split_units(params, before["body"], stamps, *args)
    assert [int((s > 0).sum()) for s in stamps] == [321, 134]
    assert [int((s == 1).sum()) for s in stamps] == [312, 128]
    assert int(refused) == int(more) == 0
    assert free_places_are_zero(params, stamps)


def test_oracle_9_the_floor_of_the_released_selection():
    logits = jnp.full((4, 10), jnp.log(0.1 / 0.9))
    targets, every = jax.nn.one_hot(jnp.arange(4), 10), jnp.ones(10, bool)
    found = binary_cross_entropy(logits, targets, jnp.ones(4), every)
    np.testing.assert_allclose(found, 0.3250830, rtol=1e-6)


# --- operations -----------------------------------------------------------------------------------


def test_relevant_units_by_walking_paths():
    """Three layers, sparse: a unit counts if some path of weights leads from it to a class."""
    rng = np.random.default_rng(1)
    body = tuple(
        {"kernel": jnp.float32(rng.normal(size=s) * (rng.random(s) < 0.25)), "bias": jnp.ones(s[1])}
        for s in ((INPUTS, 8), (8, 7), (7, 6))
    )
    head = jnp.float32(rng.normal(size=(6, 3)) * (rng.random((6, 3)) < 0.2))

    def leads(layer, unit):
        if layer == 2:
            return bool((head[unit] != 0).any())
        kernel = body[layer + 1]["kernel"]
        return any(kernel[unit, j] != 0 and leads(layer + 1, j) for j in range(kernel.shape[1]))

    found = relevant_units(body, head)
    for layer, units in enumerate(found):
        assert units.tolist() == [leads(layer, j) for j in range(units.size)]
        assert 0 < units.sum() < units.size


def test_units_are_added_where_there_is_room():
    """Free places between units are taken first; what does not fit is counted."""
    stamps = (jnp.array([1, 0, 1, 0, 0, 0]), jnp.array([1, 1, 1, 0, 1]))
    grown, refused = add_units(stamps, jnp.int32(3), jnp.int32(2))
    assert [g.tolist() for g in grown] == [[1, 3, 1, 3, 0, 0], [1, 1, 1, 3, 1]]
    assert int(refused) == 1
    grown, refused = add_units(stamps, jnp.int32(3), jnp.int32(0))
    assert [g.tolist() for g in grown] == [s.tolist() for s in stamps]
    assert int(refused) == 0


def test_only_what_is_new_is_drawn():
    old = stamps_of((4,), (3,), room=3)
    params = network(old)
    stamps, _ = add_units(old, jnp.int32(2), jnp.int32(2))
    found = init_new_units(jax.random.key(0), params, active(old), active(stamps), jnp.int32(1))
    for layer, before, kept in zip(
        found["body"], params["body"], connections(INPUTS, active(old)), strict=True
    ):
        for kind in ("kernel", "bias"):
            assert ((layer[kind] == before[kind]) | ~kept[kind]).all()
    assert (found["body"][1]["kernel"][4:6, :5] != 0).all()  # heard by old units and new
    assert (found["body"][1]["kernel"][:6, 3:5] != 0).all()
    rows = found["heads"]["kernel"][:, 3:5]
    assert (rows[1] != 0).all()
    assert not rows[jnp.array([0, 2])].any()
    np.testing.assert_array_equal(found["heads"]["bias"], params["heads"]["bias"])
    assert free_places_are_zero(found, stamps)


def test_new_units_that_hear_nothing_are_removed_from_below_to_above():
    """Unit 4 below hears nothing; above, unit 3 hears it alone. Old units stay in any case."""
    stamps = stamps_of((4, 2), (3, 2), room=1)
    params = network(stamps)
    first, second = params["body"]
    first = {**first, "kernel": first["kernel"].at[:, jnp.array([0, 4])].set(0)}
    only = jnp.where(jnp.arange(7) == 4, 1.0, 0.0)
    second = {**second, "kernel": second["kernel"].at[:, 3].set(only)}
    found, left = prune_units({**params, "body": (first, second)}, stamps, jnp.int32(2))
    assert [s.tolist() for s in left] == [[1, 1, 1, 1, 0, 2, 0], [1, 1, 1, 0, 2, 0]]
    assert free_places_are_zero(found, left)
    assert (found["body"][1]["kernel"][jnp.array([0, 1, 2, 3, 5])][:, :3] != 0).all()
    kept, same = prune_units({**params, "body": (first, second)}, stamps, jnp.int32(-1))
    assert [s.tolist() for s in same] == [s.tolist() for s in stamps]
    jax.tree.map(np.testing.assert_array_equal, kept["body"], (first, second))


def test_a_split_by_hand():
    """One unit a layer: the old one is what it was, the new one what it became."""
    stamps = stamps_of((3, 1), (2,), room=2)
    params, previous = network(stamps), network(stamps, seed=0)["body"]
    known = connections(INPUTS, active(stamps, 1))  # before the task there was no fourth unit
    previous = jax.tree.map(lambda w, k: jnp.where(k, w, 0), previous, known)
    first, second = params["body"]
    first = {**first, "kernel": first["kernel"].at[2, 1].add(0.3), "bias": first["bias"] + 0.1}
    first["bias"] = jnp.where(stamps[0] > 0, first["bias"], 0)
    second = {**second, "kernel": second["kernel"].at[0, 0].add(0.7)}
    second["kernel"] = second["kernel"].at[3, 1].add(5)  # from a new unit: no drift
    params = {**params, "body": (first, second)}
    args = previous, stamps, jnp.int32(1), jnp.float32(0.2), 2
    found, left, refused = split_units(params, *args)
    assert [s.tolist() for s in left] == [[1, 1, 1, 2, 2, 0], [1, 1, 2, 0]]
    assert int(refused) == 0

    w1, w2 = np.array(first["kernel"]), np.array(second["kernel"])
    b1, b2 = np.array(first["bias"]), np.array(second["bias"])
    w1[:, 4], b1[4] = w1[:, 1], b1[1]
    w1[:, 1], b1[1] = previous[0]["kernel"][:, 1], previous[0]["bias"][1]
    w2[4] = w2[1]  # who heard unit 1 also hears its copy
    w2[:, 2], b2[2] = w2[:, 0], b2[0]
    w2[:, 0], b2[0] = previous[1]["kernel"][:, 0], previous[1]["bias"][0]
    heads = np.array(params["heads"]["kernel"])
    heads[1, 2], heads[1, 0] = heads[1, 0], 0
    np.testing.assert_array_equal(found["body"][0]["kernel"], w1)
    np.testing.assert_array_equal(found["body"][0]["bias"], b1)
    np.testing.assert_array_equal(found["body"][1]["kernel"], w2)
    np.testing.assert_array_equal(found["body"][1]["bias"], b2)
    np.testing.assert_array_equal(found["heads"]["kernel"], heads)
    assert free_places_are_zero(found, left)


def test_splits_that_do_not_fit_are_counted_and_change_nothing():
    stamps = stamps_of((4,), (3,), room=1)
    params = network(stamps)
    moved = tuple({**w, "kernel": w["kernel"] * 1.5} for w in params["body"])
    args = params["body"], stamps, jnp.int32(1), jnp.float32(0), 2
    found, left, refused = split_units({**params, "body": moved}, *args)
    assert int(refused) == 2
    assert [int((s == 2).sum()) for s in left] == [1, 1]
    assert free_places_are_zero(found, left)
    full = stamps_of((4,), (3,), room=0)
    params = network(full)
    moved = {**params, "body": tuple({**w, "kernel": w["kernel"] * 1.5} for w in params["body"])}
    args = params["body"], full, jnp.int32(1), jnp.float32(0), 2
    found, left, refused = split_units(moved, *args)
    assert int(refused) == 4
    jax.tree.map(np.testing.assert_array_equal, found, moved)


def test_no_splits_at_most_none_or_in_the_first_task():
    stamps = stamps_of((4,), (3,), room=2)
    params = network(stamps)
    previous = jax.tree.map(jnp.zeros_like, params["body"])
    for task, most in ((1, 0), (0, 2)):
        args = previous, stamps, jnp.int32(task), jnp.float32(0), most
        found, left, refused = split_units(params, *args)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        assert [s.tolist() for s in left] == [s.tolist() for s in stamps]
        assert int(refused) == 0


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [0, 1, 2])
def test_only_units_of_the_stamp_or_before_answer(task):
    """The network cut to its first units gives the same."""
    stamps = stamps_of((4, 1, 2), (3, 2, 0), room=1)
    params, x = network(stamps), np.random.default_rng(3).normal(size=(5, INPUTS))
    sizes = [int(((s > 0) & (s <= task + 1)).sum()) for s in stamps]
    h = x
    for layer, n, below in zip(params["body"], sizes, (INPUTS, *sizes), strict=False):
        kernel = np.asarray(layer["kernel"], np.float64)[:below, :n]
        h = np.maximum(h @ kernel + np.asarray(layer["bias"])[:n], 0)
    head = np.asarray(params["heads"]["kernel"][task], np.float64)[: sizes[1]]
    expected = h @ head + np.asarray(params["heads"]["bias"][task])
    found = forward(params, jnp.float32(x), active(stamps, task + 1), jnp.int32(task))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_counted_among_active_units():
    """6-4-3 with a head of 3 classes, then 6-5-5 with a second head that knows all five."""
    stamps = stamps_of((4, 1), (3, 2), room=2)
    params = network(stamps)
    first = 6 * 4 + 4 + 4 * 3 + 3 + 3 * 3 + 3
    second = 6 * 5 + 5 + 5 * 5 + 5 + (3 * 3 + 3) + (5 * 3 + 3)
    assert float(num_parameters(stamps, jnp.int32(0), params)) == first
    assert float(num_parameters(stamps, jnp.int32(1), params)) == second
