"""How well estimates of similarity find groups that are known."""

import numpy as np

from cls_jax.app.similarity_estimators import nearest_hits, ranked

TRUTH = (0, 1, 0, 1)
SIMILAR = np.array(
    [
        [[9, 9, 9, 9], [0.2, 9, 9, 9], [0.8, 0.1, 9, 9], [0.1, 0.2, 0.4, 9]],
        [[9, 9, 9, 9], [0.0, 9, 9, 9], [0.1, 0.0, 9, 9], [0.0, 0.1, 0.0, 9]],
    ]
)


def test_hits_are_of_tasks_that_have_one_of_their_group_before():
    """Tasks 2 and 3; of the first seed task 3 finds 2 likelier than 1."""
    np.testing.assert_allclose(nearest_hits(SIMILAR, TRUTH), [0.5, 1])


def test_pairs_of_one_group_rank_above_pairs_of_two():
    """Of the first seed .8 and .2 against .2, .1, .1 and .4: six above, one beside, one below."""
    np.testing.assert_allclose(ranked(SIMILAR, TRUTH), [(4 + 2.5) / 8, 1])


def test_without_pairs_there_is_no_share():
    assert np.isnan(nearest_hits(SIMILAR, range(4))).all()
    assert np.isnan(ranked(SIMILAR, (0, 0, 0, 0))).all()
