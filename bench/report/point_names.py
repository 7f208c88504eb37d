"""Names beside the points of a figure, with a thin line to where one could not stand close by."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from bench.report.labels import Place, place_names
from koala.harness.figures import FAINT, INK

_FONT_SIZE, _HEIGHT, _CHARACTER_WIDTH = 7, 9.0, 4.3  # and a name's extent in points
_CLOSE = 8.0  # points from the edge of a large point, up to which a name needs no line


def write_names(
    axis: Axes, points: Sequence[Place], texts: Sequence[str], along: Sequence[Place] = (), radii: Sequence[float] = ()
) -> int:
    """Name points (in data coordinates), off the places `along` lines; how many found room. Limits must be settled.

    `radii` are in points of 1/72 inch.
    """
    scale = 72 / axis.figure.dpi  # pixels to points

    def place(point: Place) -> Place:
        x, y = axis.transData.transform(point) * scale
        return float(x), float(y)

    left, bottom, right, top = (float(value) * scale for value in axis.bbox.extents)
    widths = [_CHARACTER_WIDTH * len(text) for text in texts]
    places, lines = [place(point) for point in points], [place(point) for point in along]
    offsets = place_names(places, widths, _HEIGHT, (left, bottom, right, top), lines, radii)
    for point, text, offset, radius in zip(points, texts, offsets, radii or [0.0] * len(points), strict=True):
        if offset is not None:
            _write(axis, point, text, offset, radius)
    return sum(offset is not None for offset in offsets)


def _write(axis: Axes, point: Place, text: str, offset: Place, radius: float) -> None:
    side = 0.0 if offset[0] > 0 else 1.0
    leader = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3, "relpos": (side, 0.5)}
    close = radius and (offset[0] ** 2 + offset[1] ** 2) ** 0.5 < radius + _CLOSE
    note = axis.annotate(
        text,
        point,
        xytext=offset,
        textcoords="offset points",
        ha="right" if side else "left",
        va="center",
        fontsize=_FONT_SIZE,
        color=INK,
        arrowprops=leader if offset[1] and not close else None,
        parse_math=False,
        zorder=4,
    )
    note.set_in_layout(False)
