"""The laws again, on two methods that learn with an optimizer which has a state and a schedule."""

from functools import cache, partial

import pytest

from cls_jax.methods.optimizer import OptimizerConfig
from tests.conftest import small_method
from tests.laws import test_laws as laws

ADAMW = OptimizerConfig(
    optimizer="adamw", schedule="cosine", schedule_steps=40, warmup_steps=3, clip_norm=1.0
)
small = partial(small_method, learns_with=ADAMW)
built = cache(laws.built.__wrapped__)
OF_STATES = (
    laws.test_state_out_is_shaped_like_state_in,
    laws.test_one_trace_for_all_tasks,
    laws.test_the_state_can_be_donated,
    laws.test_under_x64_the_state_keeps_its_dtypes,
    laws.test_hyper_is_data,
)
OF_STEPS = (
    laws.test_a_step_is_pure,
    laws.test_metrics_are_finite_float_scalars_with_a_loss,
    laws.test_padding_has_no_influence,
    laws.test_trials_equal_single_runs_to_rounding,
)


@pytest.mark.parametrize("law", [*OF_STATES, *OF_STEPS])
@pytest.mark.parametrize("name", ["er", pytest.param("clser", marks=pytest.mark.more)])
def test_it_holds_with_adamw(name, law, monkeypatch):
    monkeypatch.setattr(laws, "small_method", small)
    monkeypatch.setattr(laws, "built", built)
    assert len(laws.built(name).state.memory.slots) == 2  # built by the line above
    law(name, *(() if law in OF_STATES else (0,)))
