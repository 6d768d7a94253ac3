"""An empty figure, its texts as they are, and its bytes: PNG, SVG or PDF.

Figures are made with ``Figure`` and the Agg canvas, never pyplot, so no backend or display is
touched, and under matplotlib's own defaults, so no matplotlibrc changes them: one result gives the
same bytes each time.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from cls_jax.core.errors import InputError
from cls_jax.report.tables import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font

FigureFormat = Literal["png", "svg", "pdf"]
"""What a figure is written as; also how the name of its file ends."""

DEFAULT_FORMATS: tuple[FigureFormat, ...] = ("png",)
DPI = 200
TITLE, LABEL, SMALL = 10, 9, 8
"""Sizes of the letters, in points."""

_NO_DATE: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def check_formats(formats: Sequence[str], written: bool = True, remedy: str = "") -> None:
    """Whether figures can be written so: each format once, and at least one.

    Args:
      formats: as they were given.
      written: whether any figure will be written.
      remedy: what must be given for that.

    Raises:
      InputError: no format, one of them twice, one that there is not, or formats for nothing.
    """
    known, words = get_args(FigureFormat), " ".join(formats)
    if not formats or len(set(formats)) < len(formats) or set(formats) - set(known):
        raise InputError(
            f"figure_format is {words!r}; give one or several of {', '.join(known)}, each once"
        )
    if not written and tuple(formats) != DEFAULT_FORMATS:
        raise InputError(f"figure_format is {words}, but no figure is written; give {remedy}")


@contextmanager
def plain_style() -> Iterator[None]:
    """Whatever is drawn inside has matplotlib's defaults: no "$", "_" or "\\" is mathematics."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        ours: dict[Any, Any] = {
            **{"text.parse_math": False, "svg.hashsalt": "cls_jax", "pdf.fonttype": 42},
            **{"axes.titlesize": TITLE, "figure.titlesize": TITLE, "axes.labelsize": LABEL},
            **{"xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL},
            **{"legend.title_fontsize": SMALL, "lines.linewidth": 1.3, "axes.linewidth": 0.7},
        }
        matplotlib.rcParams.update(ours)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def laid_out(figure: "Figure") -> "Figure":
    """The same figure, everything in its place for good: each drawing after it is the same."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


@plain_style()
def encode(figure: "Figure", format: FigureFormat) -> bytes:
    """The file of a figure; the same bytes for the same figure, with no date in them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, metadata=_NO_DATE[format])
    return buffer.getvalue()


def figure_files(
    figures: Mapping[str, "Figure"], formats: Sequence[FigureFormat]
) -> dict[str, bytes]:
    """Every figure in every format: "name.png" -> content.

    Args:
      figures: name -> figure.
      formats: one or several.
    """
    return {
        f"{name}.{format}": encode(figure, format)
        for name, figure in figures.items()
        for format in formats
    }


def drawable(name: str) -> str:
    """``name`` on one line; what the font cannot draw (Chinese, say) is shown by its code."""
    font = _font()

    def drawn(c: str) -> str:
        known = font.get_char_index(ord(c))
        return c if known else c.encode("ascii", "backslashreplace").decode()

    return "".join(map(drawn, visible(name)))


def width_of(text: str, points: float) -> float:
    """How wide a line of drawable text is, in inches."""
    font = _font()
    font.set_size(points, 72)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / 72


def cut(text: str, inches: float, points: float) -> str:
    """``text``, without its middle where it is wider than that."""
    width = width_of(text[:1000], points)
    if width <= inches and len(text) <= 1000:
        return text
    keep = int(min(1.0, 1.5 * inches / width) * min(len(text), 1000)) - 1
    while width_of(short := _without_middle(text, keep), points) > inches and keep > 2:
        keep -= max(1, keep // 20)
    return short


def _without_middle(text: str, keep: int) -> str:
    return f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"


@lru_cache(maxsize=1)
def _font() -> "FT2Font":
    """The one that everything is written in."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    with plain_style():
        return get_font(findfont(FontProperties()))
