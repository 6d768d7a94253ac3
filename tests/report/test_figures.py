"""Figures by what is in them: lines, bands, limits, labels; and the files they become."""

import io
import itertools
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_jax.core.errors import InputError
from cls_jax.core.metrics import accuracy_by_task
from cls_jax.report import axes as drawing
from cls_jax.report import figures
from cls_jax.report.axes import OKABE_ITO, curve, limits, look
from cls_jax.report.canvas import DPI, check_formats, encode, figure_files, plain_style, width_of
from cls_jax.report.summary import render
from tests.report.test_summary import comparison, make_result, phased_result, told

DOMAIN = {"stream": {"name": "permuted", "scenario": "domain_il"}}


def named(count, num_tasks=3, **kind):
    """Results of as many methods, each a little worse than the one before."""
    results = [make_result(num_tasks, method=f"method {k}", **kind) for k in range(count)]
    return [r._replace(matrix=np.clip(r.matrix - 0.02 * k, 0, 1)) for k, r in enumerate(results)]


def texts(figure):
    """Everything written in it."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def overlap(one, other):
    """Whether two things lie over each other on the page."""
    return one.get_window_extent().overlaps(other.get_window_extent())


# --- what is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_tasks", [5, 20])
@pytest.mark.parametrize("details", [{}, DOMAIN])
@pytest.mark.parametrize("count", [1, 3, 4, 10])
def test_a_comparison_has_every_mean_and_band(count, details, num_tasks):
    results = [r._replace(details=details) for r in named(count, num_tasks)]
    figure = figures.comparison_over_tasks(results)
    assert len(figure.axes) == (1 if details else 2)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    bottom, top = figure.axes[0].get_ylim()
    for place, axes in enumerate(figure.axes):
        assert axes.get_title() == results[0].scenarios[place]
        for result, line, band in zip(results, axes.lines, axes.collections, strict=True):
            curves = 100 * accuracy_by_task(result.matrix[:, 0, place, 1:])
            mean, std = curves.mean(0), curves.std(0, ddof=1)
            np.testing.assert_allclose(line.get_ydata(), mean)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(num_tasks) + 1)
            low, high = band.get_datalim(axes.transData).intervaly
            np.testing.assert_allclose(low, max(0, (mean - std).min()))
            np.testing.assert_allclose(high, min(100, (mean + std).max()))
            assert bottom <= low < high < top
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [r.method for r in results]
    assert not any(overlap(legend, axes) for axes in figure.axes)
    assert figure.get_figwidth() <= 7.2
    smallest = min(text.get_fontsize() for text in legend.get_texts())
    assert smallest * 6 / figure.get_figwidth() > 6.5, "not to be read at 6 inches"


def test_the_figure_names_its_bands_and_seeds():
    several, one = named(2), named(2, seeds=(4,))
    band = "mean over 3 seeds; band: ± one sample standard deviation"
    assert band in texts(figures.comparison_over_tasks(several))
    assert band in texts(figures.accuracy_over_tasks(several[0]))
    assert "one seed (4)" in texts(figures.comparison_over_tasks(one))
    other = one[1]._replace(seeds=(5,))
    assert "one seed each" in texts(figures.comparison_over_tasks([one[0], other]))
    mixed = f"mean over 1 to 3 {band.partition('3 ')[2]}"
    assert mixed in texts(figures.comparison_over_tasks([several[0], one[1]]))
    assert "accuracy (%), mean over 3 seeds" in texts(figures.accuracy_matrix(several[0]))
    assert not figures.comparison_over_tasks(one).axes[0].collections


def test_where_only_the_end_was_scored_each_task_has_its_place():
    whole = make_result()
    ends = np.full_like(whole.matrix, np.nan)
    ends[..., -1, :] = 0.5
    figure = figures.accuracy_over_tasks(whole._replace(matrix=ends))
    for line in figure.axes[0].lines:
        np.testing.assert_array_equal(line.get_ydata(), [50, 50, 50])
    assert figure.axes[0].get_xlabel() == "task"


def test_what_was_measured_once_is_a_dot_with_a_bar():
    """Joint training in a comparison: a line has nothing to join, a band no width."""
    results = comparison()
    results[2].matrix[1, ..., -1, :] = 0.99
    first, *_ = figures.comparison_over_tasks(results).axes
    joint = first.lines[2]
    assert np.isfinite(joint.get_ydata()).tolist() == [False, False, True]
    (bar,) = [c for c in first.collections if len(c.get_paths()) == 3]
    mean, std = 100 * np.mean([0.97, 0.99, 0.97]), 100 * np.std([0.97, 0.99, 0.97], ddof=1)
    np.testing.assert_allclose(bar.get_paths()[2].vertices, [(3, mean - std), (3, mean + std)])


@pytest.mark.parametrize("draw", [figures.accuracy_matrix, figures.accuracy_over_tasks, "several"])
def test_figures_say_that_the_task_is_told(draw):
    draw = (lambda r: figures.comparison_over_tasks([r])) if draw == "several" else draw
    words = texts(draw(told(make_result())))
    places = [words.index(name) for name in ("task-IL (task told)", "class-IL")]
    assert places == sorted(places)
    words = texts(draw(make_result()))
    assert "class-IL" in words
    assert not any("told" in word for word in words)


@pytest.mark.parametrize("num_tasks", [1, 3, 10, 20, 250])
def test_a_matrix_has_its_numbers_while_they_can_be_read(num_tasks):
    result = make_result(num_tasks)
    figure = figures.accuracy_matrix(result)
    panels = figure.axes[:2]
    expected = 100 * result.matrix[:, 0, 0, 1:].mean(0)
    np.testing.assert_allclose(panels[0].images[0].get_array().filled(np.nan), expected)
    assert len(panels[0].texts) == (np.isfinite(expected).sum() if num_tasks <= 25 else 0)
    if panels[0].texts:
        digits = 1 if num_tasks <= 10 else 0
        assert panels[0].texts[0].get_text() == f"{expected[0, 0]:.{digits}f}"
        cell = panels[0].get_window_extent().width / num_tasks
        widest = max(text.get_window_extent().width for text in panels[0].texts)
        assert widest < cell, "the numbers run into each other"
        assert min(text.get_fontsize() for text in panels[0].texts) >= 7
    assert figure.get_figwidth() <= 7.2
    assert (panels[0].get_position().y0 > panels[1].get_position().y1) == (num_tasks == 20)


def test_what_is_kept_has_a_line_a_method_and_names_outside():
    results = [phased_result(f"m{k}", bits=(8192.0, 16384.0 + k, 16384.0)) for k in range(16)]
    figure = figures.capacity(results)
    (axes,), (legend,) = figure.axes, figure.legends
    for result, line in zip(results, axes.lines, strict=True):
        np.testing.assert_allclose(line.get_ydata(), result.capacity["bits"].mean(0) / 8192)
    assert not overlap(legend, axes)
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
    alone = figures.capacity(results[:1])
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["units of layer 1"]
    np.testing.assert_array_equal(alone.axes[1].lines[0].get_ydata(), [64, 70, 75])


def test_accuracy_by_capacity_has_a_point_a_method():
    results = [phased_result(f"m{k}", bits=(8192.0, 16384.0, 16384.0 * k)) for k in range(1, 5)]
    (axes,) = (figure := figures.accuracy_by_capacity(results)).axes
    ends = [line.get_ydata()[-1] for line in figures.comparison_over_tasks(results).axes[0].lines]
    points = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines]
    np.testing.assert_allclose(points, list(zip([2, 4, 6, 8], ends, strict=True)))
    assert axes.get_xlim()[0] == 0
    assert not overlap(figure.legends[0], axes)


def test_many_tasks_have_round_numbers_and_few_marks():
    figure = figures.accuracy_over_tasks(make_result(250))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "50",
        "100",
        "150",
        "200",
        "250",
    ]
    starts = [line.get_markevery() for line in axes.lines]
    assert starts == [(0, 10), (1, 10)], "the marks of two lines lie over each other"


# --- colours and limits ---------------------------------------------------------------------------


def test_no_two_methods_look_alike():
    """Seven colours, but each method has a line of its own: a table of DEN has sixteen."""
    looks = [tuple(sorted(look(style).items())) for style in range(196)]
    assert len(set(looks)) == 196
    assert len({look[:1] for look in looks[:7]}) == 7


def test_ten_methods_are_told_apart_without_colour():
    """Marker and line alone."""
    assert len({(look(k)["marker"], look(k)["linestyle"]) for k in range(10)}) == 10


def seen(code, blindness):
    """A colour as the colour-blind see it, linear RGB (Viénot, Brettel and Mollon 1999)."""
    rgb = (np.array([int(code[k : k + 2], 16) for k in (1, 3, 5)]) / 255) ** 2.2
    lms = np.array([[17.8824, 43.5161, 4.1194], [3.4557, 27.1554, 3.8671], [0.03, 0.1843, 1.4671]])
    cones = lms @ rgb
    if blindness == "protan":
        cones[0] = 2.02344 * cones[1] - 2.52581 * cones[2]
    if blindness == "deutan":
        cones[1] = 0.494207 * cones[0] + 1.24827 * cones[2]
    return np.clip(np.linalg.solve(lms, cones), 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("blindness", ["none", "protan", "deutan"])
def test_colours_survive_colour_blindness(blindness):
    for one, other in itertools.combinations(OKABE_ITO, 2):
        assert np.abs(seen(one, blindness) - seen(other, blindness)).max() > 0.1


percents = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=6)


@given(st.lists(st.tuples(percents, st.floats(0, 80)), min_size=1, max_size=4))
def test_limits_hide_nothing_and_go_no_further_than_a_margin(lines):
    curves = [
        curve("m", 0, np.clip([np.array(mean) - spread, np.array(mean) + spread], 0, 100))
        for mean, spread in lines
    ]
    bottom, top = limits(curves)
    low, high = min(c.low.min() for c in curves), max(c.high.max() for c in curves)
    assert bottom <= low <= high < top
    margin = 0.05 * (top - bottom)
    assert -margin <= bottom
    assert top <= 100 + margin
    assert top - bottom >= drawing.LEAST_SPAN
    if high - low >= drawing.LEAST_SPAN:
        assert high - low >= 0.6 * (top - bottom)
        assert top - high <= margin


def test_good_methods_are_not_squeezed_and_the_axis_says_where_it_starts():
    best = [r._replace(matrix=0.9 + r.matrix / 20) for r in named(3)]
    axes = figures.comparison_over_tasks(best).axes[0]
    bottom, top = axes.get_ylim()
    assert 80 < bottom < top < 100
    assert axes.get_ylabel().endswith(f"\n(the axis starts at {bottom:g}, not at 0)")
    low = [r._replace(matrix=r.matrix * (r.matrix < 0.5)) for r in named(3)]
    axes = figures.comparison_over_tasks(low).axes[0]
    assert axes.get_ylim()[0] <= 0
    assert axes.get_ylabel() == "accuracy on tasks seen so far (%)"


def test_where_nothing_was_measured_the_axis_is_whole():
    assert limits([curve("m", 0, np.full((2, 3), np.nan))]) == (-4, 104)


# --- files ----------------------------------------------------------------------------------------


def test_formats_are_what_they_are_called():
    files = figure_files({"a": figures.accuracy_over_tasks(make_result())}, ("png", "svg", "pdf"))
    assert [*files] == ["a.png", "a.svg", "a.pdf"]
    assert files["a.png"].startswith(b"\x89PNG\r\n\x1a\n")
    assert files["a.svg"].startswith(b"<?xml")
    assert b"<svg " in files["a.svg"]
    assert files["a.pdf"].startswith(b"%PDF-1.")
    assert b"date" not in files["a.svg"].lower()
    assert b"CreationDate" not in files["a.pdf"]
    assert b"/Type3" not in files["a.pdf"], "publishers refuse fonts of type 3"


def test_one_result_gives_the_same_bytes_whatever_was_drawn_before():
    results, formats = named(4), ("png", "svg", "pdf")
    for draw in (
        lambda: figures.comparison_over_tasks(results),
        lambda: figures.accuracy_matrix(results[0]),
        lambda: figures.capacity([phased_result()]),
    ):
        first = figure_files({"a": draw()}, formats)
        assert figure_files({"a": draw()}, formats[::-1]) == first


def test_bytes_are_the_same_in_another_process():
    """Hash seeds and the cache of fonts play no part."""
    code = """
import sys, zlib
from cls_jax.report import figures
from cls_jax.report.canvas import encode
from tests.report.test_summary import make_result
figure = figures.accuracy_over_tasks(make_result())
print([zlib.crc32(encode(figure, format)) for format in ("png", "svg", "pdf")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    figure = figures.accuracy_over_tasks(make_result())
    expected = [zlib.crc32(encode(figure, format)) for format in ("png", "svg", "pdf")]
    assert done.stdout.strip() == str(expected)


def test_every_figure_of_a_folder_has_every_format():
    one, several = render([phased_result()], ("svg", "pdf")), render(named(2), ("pdf",))
    names = "accuracy_matrix", "accuracy_over_tasks", "capacity"
    drawn = {f"{name}.{format}" for name in names for format in ("svg", "pdf")}
    assert {name for name in one if name.split(".")[-1] in ("png", "svg", "pdf")} == drawn
    assert "comparison_over_tasks.pdf" in several
    assert not any(name.endswith(".png") for name in several)


@pytest.mark.parametrize("formats", [(), ("png", "png"), ("gif",), ("png", "")])
def test_a_wrong_format_is_refused(formats):
    with pytest.raises(InputError, match=r"figure_format is '.*'; give one or several of png"):
        check_formats(formats)


def test_a_format_for_nothing_is_refused():
    check_formats(("png",), False, "--workdir")
    with pytest.raises(
        InputError, match="figure_format is svg pdf, but no figure is written; give --workdir"
    ):
        check_formats(("svg", "pdf"), False, "--workdir")


def test_a_png_is_as_wide_as_it_says():
    from matplotlib.image import imread

    figure = figures.comparison_over_tasks(comparison())
    image = imread(io.BytesIO(encode(figure, "png")))
    assert image.shape[1] == pytest.approx(DPI * figure.get_figwidth(), abs=1)
    for code in OKABE_ITO[:3]:
        rgb = np.array([int(code[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        assert (np.abs(image[..., :3] - rgb).max(-1) < 0.01).sum() > 50


def test_text_is_measured():
    with plain_style():
        assert width_of("W" * 20, 8) == pytest.approx(20 * width_of("W", 8), rel=0.1)
        assert width_of("W", 16) == pytest.approx(2 * width_of("W", 8), rel=0.1)


def test_matplotlib_waits_until_a_figure_is_drawn_and_pyplot_never_comes():
    code = """
import sys
from cls_jax.report import figures, summary
assert "matplotlib" not in sys.modules
from cls_jax.report.canvas import encode, new_figure
encode(new_figure(2, 2), "png")
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
