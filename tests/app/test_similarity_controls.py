"""The arms beside group_ema: their sizes, and how groups are scored."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from cls_jax.app.build import make_stream
from cls_jax.app.method_flags import flags_of
from cls_jax.app.run_config import RunConfig
from cls_jax.app.similarity_controls import Found, learners, purity
from cls_jax.app.variants import SIMILARITY, fitted
from cls_jax.core.errors import InputError
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

STREAM = StreamConfig(scenario="permuted", tasks=6, groups=2, image_size=8)


@dataclass(frozen=True)
class Config:
    variants: tuple[str, ...] = tuple(SIMILARITY)
    stream: StreamConfig = STREAM
    net: NetConfig = NetConfig(net="mlp", hidden=(8,))
    run: RunConfig = RunConfig()
    method: Any = field(default_factory=flags_of("group_ema"))


def every(config, found=Found()):  # noqa: B008
    return learners(config, make_stream(config.stream), fitted(SIMILARITY, config), found)


def test_controls_are_as_large_as_what_similarity_found():
    """A slot is 8 x 8 x 3 bytes and a label, of DER++ ten logits too."""
    arms = {one.method.name: one.method for one in every(Config(), Found(3, 19600))}
    assert arms.keys() == set(SIMILARITY)
    assert arms["random"].fixed["max_groups"] == 3
    assert arms["snapshots"].fixed["max_groups"] == 6
    assert arms["told"].fixed["told_groups"] == (0, 1, 0, 1, 0, 1)
    assert arms["er"].fixed["memory_size"] == arms["derpp"].fixed["memory_size"] == 500
    assert arms["er matched"].fixed["memory_size"] == 500 + 3 * 19600 // 196
    assert arms["derpp matched"].fixed["memory_size"] == 500 + 3 * 19600 // 236
    assert arms["clser"].hyper["stable_decay"] == arms["clser"].hyper["plastic_decay"] == 0.99


def test_masks_share_the_channels_among_as_many_groups_as_there_are():
    labels = "masks", "masks told", "masks random", "masks soft", "fast"
    arms = {one.method.name: one.method for one in every(Config(variants=labels))}
    assert [one.fixed["max_groups"] for one in arms.values()] == [2] * 5
    assert [one.hyper["stable_decay"] for one in arms.values()] == [0.99] * 5
    assert [one.hyper["foreign_factor"] for one in arms.values()] == [0, 0, 0, 0.3, 1]
    told = [one.fixed["told_groups"] for one in arms.values()]
    assert told == [(), (0, 1, 0, 1, 0, 1), (), (0, 1, 0, 1, 0, 1), (0, 1, 0, 1, 0, 1)]
    assert arms["fast"].fixed["speed"] == "fast"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"variants": ("er", "random")}, "variants holds random, which is as large as the groups"),
        ({"run": RunConfig(sweep=("learning_rate", "0.1", "0.2"))}, "sweep varies one method"),
        ({"stream": replace(STREAM, groups=None)}, "variants holds told, but no groups are known"),
        ({"stream": replace(STREAM, task_order="shuffled")}, "variants holds told, but no groups"),
        (
            {"stream": replace(STREAM, groups=None), "variants": ("masks", "slow")},
            "variants holds slow, but no groups",
        ),
    ],
)
def test_arms_that_cannot_be_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        every(replace(Config(), **change))


def test_purity_is_the_share_of_each_groups_commonest_truth():
    group = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]])
    np.testing.assert_array_equal(purity(group, (0, 1, 0, 1)), [1, 0.5, 0.75])
