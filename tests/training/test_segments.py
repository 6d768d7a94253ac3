"""The order of a run's segments, from any place on."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_jax.methods.base import Method, Needs, Phase
from cls_jax.training.segments import START, Position, chunks, end, remaining_segments
from tests.support.methods import method_of

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=3)


def two_phases(**needs) -> Method:
    """Of a method only the boundaries and phases count here."""
    phases = (Phase("train", None), Phase("finetune", None))
    return method_of("spy", init=None, phases=phases, predict=None, needs=Needs(**needs))


def rows_of(some) -> list:
    """Every row of these segments."""
    return [(g.kind, g.task, g.phase, row) for g in some for row in range(g.start, g.stop)]


def test_a_task_is_begun_trained_phase_by_phase_ended_and_scored():
    sizes = [[[3], [2]], [[1], [1]]]
    found = [
        (segment.kind, segment.task, segment.phase, segment.start, segment.stop)
        for segment in remaining_segments(two_phases(boundaries=True), sizes, 2, START)
    ]
    assert found[0] == ("score", -1, 0, 0, 1)
    assert found[1:9] == [
        ("begin", 0, 0, 0, 1),
        ("enter", 0, 0, 0, 1),
        ("steps", 0, 0, 0, 2),
        ("steps", 0, 0, 2, 3),
        ("enter", 0, 1, 0, 1),
        ("steps", 0, 1, 0, 1),
        ("end", 0, 0, 0, 1),
        ("score", 0, 0, 0, 1),
    ]
    assert [kind for kind, task, *_ in found if task == 1] == [
        "begin", "enter", "steps", "enter", "steps", "end", "score",
    ]  # fmt: skip


def test_without_boundaries_there_are_none_and_pooled_tasks_are_scored_last():
    sizes = [[[1], [1]], [[1], [1]]]
    plain = [segment.kind for segment in remaining_segments(two_phases(), sizes, 5, START)]
    assert "begin" not in plain
    assert "end" not in plain
    pooled = [
        segment
        for segment in remaining_segments(two_phases(pooled=True), sizes, 5, START)
        if segment.kind == "score"
    ]
    assert [segment.task for segment in pooled] == [-1, 1]


@given(st.lists(SIZES, min_size=1, max_size=3), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_from_every_place_the_rest_follows_once(tasks, chunk, other, boundaries):
    width = max(map(len, tasks))
    tasks = [(trials * width)[:width] for trials in tasks]
    sizes, method = [tasks, tasks], two_phases(boundaries=boundaries)
    whole = list(remaining_segments(method, sizes, chunk, START))
    places = [segment.done for segment in whole]
    assert places == sorted(set(places))
    assert all(place < end(len(tasks)) and not place.over for place in places)
    assert end(len(tasks)).over
    for number, place in enumerate(places):
        assert list(remaining_segments(method, sizes, chunk, place)) == whole[number + 1 :]
        rest = list(remaining_segments(method, sizes, other, place))  # with another length of chunk
        rows = [(g.task, g.phase, r) for g in rest for r in range(g.start, g.stop)]
        expected = [
            (g.task, g.phase, r) for g in whole[number + 1 :] for r in range(g.start, g.stop)
        ]
        assert rows == expected


@given(SIZES, st.integers(1, 5), st.integers(0, 9))
def test_chunks_cover_every_row_once_and_none_crosses_the_end_of_the_first_trial(
    trials, size, first
):
    first = min(first, max(trials))
    cuts = chunks(trials, size, first)
    rows = list(itertools.chain(*(range(*cut) for cut in cuts)))
    assert rows == list(range(first, max(trials)))
    for start, stop in cuts:
        assert 0 < stop - start <= size
        assert not start < min(trials) < stop


@pytest.mark.parametrize("place", [START, Position(0, 0, 1), Position(2, 3, 1)])
def test_a_place_within_a_run_is_not_over(place):
    assert not place.over


def test_scores_at_the_end_alone():
    """Neither before training nor between tasks, with or without pooled tasks."""
    for pooled in (False, True):
        found = remaining_segments(
            two_phases(pooled=pooled), [[[3], [2]], [[1], [1]]], 5, START, "end"
        )
        assert [segment.task for segment in found if segment.kind == "score"] == [1]
