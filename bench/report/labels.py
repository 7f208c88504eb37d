"""Where the names of points go, so that none covers a point, a line or another name; lengths in any one unit."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

Place = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top
Rows: TypeAlias = np.ndarray  # float64, one line each
Mask: TypeAlias = np.ndarray  # bool

_AROUND = 4.0  # half the side of what a point takes, unless it is larger
_GAP = 7.0  # from a point to a name beside it
_REACH = 170.0  # the furthest place that is tried
_NEAR = 60.0  # beyond, a line that crosses others is the lesser evil
_LOOKS = np.linspace(0.2, 0.96, 20)[:, None]  # where a line from a point to its name is looked at


def place_names(
    points: Sequence[Place],
    widths: Sequence[float],
    height: float,
    frame: Box,
    lines: Sequence[Place] = (),
    radii: Sequence[float] = (),
) -> list[Place | None]:
    """For each point the middle of its name's near edge, relative to the point; None where there is no room.

    A name lies on the side that its offset points to. Names stay inside `frame`, and off `lines`, which are given as
    places along them; `radii` are those of large points. The nearest free place wins from which a straight line to the
    point crosses no other point and no name; where there is none near, the nearest free one.
    """
    centres = _rows(points, 2)
    around = np.maximum(_rows([(radius,) for radius in radii or [0.0] * len(points)], 1), _AROUND)
    dots = np.hstack([centres - around, centres + around])
    names, leaders, drawn = _rows([], 4), _rows([], 2), _rows(lines, 2)
    offsets: list[Place | None] = []
    for own, (point, width) in enumerate(zip(centres, widths, strict=True)):
        boxes = _name_boxes(point, width, height)
        ways = point + _OFFSETS[:, None, :] * _LOOKS  # [offset, look, xy]
        free = _inside(boxes, frame) & ~_overlap(boxes, np.vstack([dots, names])) & ~_cover(boxes, drawn)
        others = np.vstack([np.delete(dots, own, axis=0), names])
        clear = free & _IS_NEAR & ~_cover(boxes, leaders) & ~_pass(ways, others)
        best = np.flatnonzero(clear if clear.any() else free)[:1]
        offsets.extend([(float(_OFFSETS[k, 0]), float(_OFFSETS[k, 1])) for k in best] or [None])
        names = np.vstack([names, boxes[best]])
        leaders = np.vstack([leaders, ways[best].reshape(-1, 2)])
    return offsets


def _offsets() -> Iterator[Place]:
    """Right and left of the point, then on ever wider circles, flat angles before steep ones."""
    yield (_GAP, 0.0)
    yield (-_GAP, 0.0)
    radius = 10.0
    while radius <= _REACH:
        for degrees in (20, 40, 60, 75):
            across, up = radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))
            yield from ((across, up), (across, -up), (-across, up), (-across, -up))
        radius += 5.0


_OFFSETS = np.array(list(_offsets()))
_IS_NEAR = np.hypot(*_OFFSETS.T) <= _NEAR


def _rows(values: Sequence[tuple[float, ...]], columns: int) -> Rows:
    return np.array(values, dtype=np.float64).reshape(-1, columns)


def _name_boxes(point: Rows, width: float, height: float) -> Rows:
    """What a name would take at each offset, [offset, 4]."""
    edge, middle = (point + _OFFSETS).T
    left = np.where(_OFFSETS[:, 0] > 0, edge, edge - width)
    return np.stack([left, middle - height / 2, left + width, middle + height / 2], axis=1)


def _inside(boxes: Rows, frame: Box) -> Mask:
    left, bottom, right, top = boxes.T
    return (left >= frame[0]) & (bottom >= frame[1]) & (right <= frame[2]) & (top <= frame[3])


def _overlap(boxes: Rows, others: Rows) -> Mask:
    """Which boxes overlap any of the others."""
    a, b = boxes[:, None], others[None]
    return _any_of((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:]))


def _cover(boxes: Rows, places: Rows) -> Mask:
    """Which boxes hold any of the places."""
    a, b = boxes[:, None], places[None]
    return _any_of((a[..., :2] <= b) & (b <= a[..., 2:]))


def _pass(ways: Rows, boxes: Rows) -> Mask:
    """Which ways, [way, look, 2], run through any of the boxes."""
    a, b = ways[:, :, None], boxes[None, None]
    return _any_of((b[..., :2] <= a) & (a <= b[..., 2:]))


def _any_of(hits: Mask) -> Mask:
    """From hits in x and in y, [row, ..., 2]: the rows with a hit in both."""
    both = hits[..., 0] & hits[..., 1]
    return np.asarray(np.any(both.reshape(len(both), -1), axis=1))
