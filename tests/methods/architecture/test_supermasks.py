"""Supermasks: the card's oracles for initialisation, both mask rules, densities and storage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_jax.core.errors import InputError
from cls_jax.methods.architecture import supermasks as sm
from cls_jax.nets.resnet import resnet18

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("fan_in", "constant"),
    [(784, 0.0505076), (300, 0.0816497), (100, 0.1414214), (1024, 0.0441942)],
)
def test_weights_have_one_magnitude_and_both_signs(fan_in, constant):
    weights = np.asarray(sm.signed_constant(KEY, (fan_in, 50)))
    np.testing.assert_allclose(np.abs(weights), constant, rtol=1e-5)
    assert abs((weights > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(weights.size)


def test_a_kernel_sums_over_its_area():
    weights = sm.signed_constant(KEY, (3, 3, 20, 7))
    np.testing.assert_allclose(jnp.abs(weights), np.sqrt(2 / 180), rtol=1e-6)


@pytest.mark.parametrize(("fan_in", "bound"), [(784, 0.0357143), (300, 0.0577350)])
def test_scores_fill_their_interval(fan_in, bound):
    scores = np.asarray(sm.score_init(KEY, (fan_in, 100)))
    assert 0.999 * bound < np.abs(scores).max() <= bound * (1 + 1e-6)
    assert abs(scores.mean()) < 4 * bound / np.sqrt(3 * scores.size)
    np.testing.assert_allclose(scores.std(), bound / np.sqrt(3), rtol=0.02)


def test_threshold_oracle():
    scores, gradient = jnp.array([-0.2, 0.0, 0.3]), jnp.array([1.5, -2.0, 0.25])
    mask, back = jax.vjp(sm.threshold_mask, scores)
    np.testing.assert_array_equal(mask, [0, 1, 1])
    np.testing.assert_array_equal(back(gradient)[0], gradient)


@pytest.mark.parametrize(("density", "kept"), [(0.4, [0, 1, 1, 0, 0]), (0.5, [0, 1, 1, 1, 0])])
def test_top_k_oracle(density, kept):
    scores = jnp.array([0.1, -0.4, 0.3, -0.2, 0.05])
    mask, back = jax.vjp(lambda s: sm.top_k_mask(s, sm.num_kept((5,), density)), scores)
    np.testing.assert_array_equal(mask, kept)
    gradient = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(back(gradient)[0], [1.0, -2.0, 3.0, -4.0, 5.0])


def test_of_equal_scores_the_first_are_kept():
    scores = jnp.array([[0.5, -0.5, 0.5], [0.1, 0.9, -0.5]])
    np.testing.assert_array_equal(sm.top_k_mask(scores, 3), [[1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(sm.top_k_mask(jnp.zeros(4), 2), [1, 1, 0, 0])


def test_masks_under_jit_and_vmap():
    scores = jax.random.normal(KEY, (4, 3, 17))
    for rule in (sm.threshold_mask, lambda s: sm.top_k_mask(s, 20)):
        alone = jnp.stack([rule(s) for s in scores])
        np.testing.assert_array_equal(jax.jit(jax.vmap(rule))(scores), alone)
        pull = jax.vmap(jax.grad(lambda s, rule=rule: (rule(s) * jnp.arange(17)).sum()))(scores)
        assert (pull[:, :, 1:] != 0).all()


@pytest.mark.parametrize(
    ("shape", "density"),
    [((3, 3, 20, 40), 0.066667), ((3, 3, 3, 20), 0.340741), ((160, 5), 0.5)],
)
def test_density_oracle(shape, density):
    assert sm.erdos_renyi_density(shape, 8) == pytest.approx(density, abs=1e-6)


def resnet18_of_20_channels() -> list[tuple[int, ...]]:
    """The 21 masked kernels: stem, four stages of two blocks, three shortcuts, 1x1 head."""
    shapes, inputs = [(3, 3, 3, 20)], 20
    for stage in range(4):
        outputs = 20 * 2**stage
        shapes += [(3, 3, inputs, outputs)] + 3 * [(3, 3, outputs, outputs)]
        shapes += [(1, 1, inputs, outputs)] if stage else []
        inputs = outputs
    return [*shapes, (1, 1, inputs, 5)]


@pytest.mark.parametrize(
    ("factor", "kept"),
    [(1, 2868), (2, 5736), (4, 11212), (8, 21944), (16, 42670), (32, 81394)],
)
def test_kept_weights_of_the_resnet18_of_20_channels(factor, kept):
    """At factor 1, no layer reaches one half: the sum of C_in + C_out over the 21 layers, 2868."""
    shapes = resnet18_of_20_channels()
    assert len(shapes) == 21
    assert sum(int(np.prod(s)) for s in shapes) == 1_090_940
    counts = [sm.num_kept(s, sm.erdos_renyi_density(s, factor)) for s in shapes]
    assert sum(counts) == kept


def test_the_resnet18_of_20_channels_is_the_library_s():
    vars = jax.eval_shape(resnet18(5, width=20).init, KEY, jnp.zeros((1, 32, 32, 3)))
    found = [
        leaf.shape if leaf.ndim == 4 else (1, 1, *leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(vars.params)
        if "kernel" in jax.tree_util.keystr(path)
    ]
    assert sorted(found) == sorted(resnet18_of_20_channels())


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_impossible_densities_are_named(factor):
    with pytest.raises(InputError, match="factor is"):
        sm.erdos_renyi_density((3, 3), factor)
    with pytest.raises(InputError, match="density is"):
        sm.num_kept((3, 3), factor)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_packed_mask_comes_back(bits):
    mask = jnp.asarray(bits)
    packed = sm.pack(mask)
    assert packed.dtype == jnp.uint8
    assert packed.shape == (-(-len(bits) // 8),)
    np.testing.assert_array_equal(sm.unpack(packed, mask.shape), np.asarray(bits, np.float32))


def test_pack_oracle():
    """The first entry is the highest bit, as in numpy.packbits; floats count where not 0."""
    mask = jnp.array([[1.0, 0, 0], [0, 0, 0], [0, 1.0, 1.0]])
    np.testing.assert_array_equal(sm.pack(mask), [0b10000001, 0b10000000])
    np.testing.assert_array_equal(sm.unpack(sm.pack(mask), (3, 3)), mask)
