"""Where a task ends: the card's divergence, Welch's test beside SciPy's, and an online learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ttest_ind

import cls_jax as cls
from cls_jax.core.errors import InputError
from cls_jax.methods.regularization.frcl import FunctionValues
from cls_jax.methods.regularization.frcl_boundary import boundary_p_value, symmetric_kl
from tests.conftest import small_method


def test_oracle_7_the_symmetric_divergence_sums_over_outputs():
    with jax.enable_x64(True):
        values = FunctionValues(jnp.array([[1.0, 0]]), jnp.array([[0.5, 2]]), jnp.array([2.0]))
        np.testing.assert_allclose(symmetric_kl(values), [1.1875], rtol=1e-12)
        assert np.isfinite(symmetric_kl(values._replace(prior=jnp.zeros(1)))).all()


def test_the_p_value_is_welchs():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for shift, n, m in ((0, 5, 8), (1, 10, 10), (4, 50, 3)):
            last, new = rng.normal(size=n), shift + 2 * rng.normal(size=m)
            expected = ttest_ind(last, new, equal_var=False).pvalue
            found = boundary_p_value(jnp.asarray(last), jnp.asarray(new))
            np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_values_without_spread_are_alike_or_not():
    assert float(boundary_p_value(jnp.ones(3), jnp.ones(4))) == 1
    assert float(boundary_p_value(jnp.ones(3), jnp.zeros(4))) == 0


def test_what_has_no_test_is_refused():
    with pytest.raises(InputError, match=r"new has the shape \(1,\); give float32\[n\]"):
        boundary_p_value(jnp.ones(3), jnp.ones(1))
    sgd = small_method("sgd")
    with pytest.raises(InputError, match=r"method is sgd .* frcl alone has a prior"):
        cls.prior_divergence(sgd, None, jnp.zeros((1, 8, 8, 3)))
