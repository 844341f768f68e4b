"""Colours that stay the same from frame to frame, and that people with any colour vision tell apart.

The first seven are Okabe and Ito's (jfly.uni-koeln.de/color). Each further one is, among 4096 colours
neither too dark nor too pale nor grey, the one farthest from all before it, for the eye that sees the
least difference: normal vision (which must see twice as much) and full protanopia, deuteranopia and
tritanopia as Machado, Oliveira and Fernandes (2009) simulate them; distances are Euclidean in OKLab.
So any first colours of the table are the most distinct ones for their number: the classes of a small
data set get the best. The tests make the table anew and state the distances.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from solo_edge.instances import Instances

__all__ = ["PALETTE", "TRACK_COLORS", "UNSURE", "Color", "ink_on", "instance_colors"]

Color = tuple[int, int, int]  # RGB, 0..255

# One for each class of COCO; classes beyond start again.
PALETTE: NDArray[np.uint8] = np.frombuffer(
    bytes.fromhex(
        "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 881166 8800ff 445511 "
        "00ffff 3322cc 9977ff cc0099 66dd77 885555 cceecc aa0000 ee22dd 99aa66 "
        "7700aa ff77dd 99ff99 ddbbff cc0055 ff2277 778833 ffbb99 aa44bb 005577 "
        "9977bb 6677dd cc9999 aa44ff 7799ff 885599 5544dd aa5500 7799bb cccc00 "
        "88dddd ee8855 992299 dd99ff 558877 cc5599 55ff66 bb9900 bb7755 665533 "
        "aa0066 bbbb55 99ddaa 007733 6644aa 00bb88 bb99cc cc55ee 444488 5500ee "
        "bb5555 aa00cc 883355 88bb00 ff7788 ffbbdd cc77dd ff99aa aaddff 775577 "
        "dddd99 77bbbb 8844ee dd2200 aa88ee 77aa44 cc22cc ee55cc 0044bb aa3388"
    ),
    dtype=np.uint8,
).reshape(-1, 3)
# Tracks go around these: far enough apart to follow one among others, and two tracks share a colour
# only if their ids differ by a multiple of this.
TRACK_COLORS = 24
# What the tracker is not sure of yet: light grey, which no class and no track has.
UNSURE: Color = (190, 190, 190)
# Relative luminance from which on black contrasts more than white does (WCAG 2: 4.58 to 1 there).
_BLACK_FROM = 0.179


def instance_colors(instances: Instances) -> NDArray[np.uint8]:
    """An RGB colour for each instance, [N, 3]: of its track if it is tracked, else of its class.

    A colour depends on nothing else, neither on the other instances nor on the place or the score,
    so it never changes while a track lives, and neither does that of a class.
    """
    if instances.track_ids is None:
        return PALETTE[instances.labels % len(PALETTE)]
    ids = instances.track_ids
    colors = PALETTE[(ids - 1) % TRACK_COLORS]
    colors[ids <= 0] = UNSURE
    return colors


@lru_cache(maxsize=1024)
def ink_on(color: Color) -> Color:
    """Black or white, whichever reads better on `color`: the contrast is at least 4.5 to 1."""
    channels = np.array(color) / 255.0
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    return (0, 0, 0) if luminance > _BLACK_FROM else (255, 255, 255)
