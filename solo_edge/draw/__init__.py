"""What was found on top of the image, fast enough for video: masks, names, status, zones.

Everything here takes and returns RGB images [H, W, 3] of uint8. Without `out` an image is never
changed; with `out=image` it is drawn on in place, which saves a copy for each layer. Zones go below the
instances, so that their lines do not cross the names:

    picture = draw_shapes(frame, shapes)
    draw_instances(picture, instances, out=picture)
    draw_hud(picture, hud, out=picture)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw.canvas import canvas
from solo_edge.draw.hud import Hud, draw_hud, draw_waiting
from solo_edge.draw.labels import draw_labels
from solo_edge.draw.masks import draw_masks
from solo_edge.draw.palette import instance_colors
from solo_edge.draw.shapes import Shape, draw_shapes
from solo_edge.draw.supervision import to_supervision
from solo_edge.instances import Instances

__all__ = [
    "Hud",
    "Shape",
    "draw_hud",
    "draw_instances",
    "draw_shapes",
    "draw_waiting",
    "instance_colors",
    "to_supervision",
]


def draw_instances(
    image: NDArray[np.uint8],
    instances: Instances,
    *,
    alpha: float = 0.5,
    labels: bool = True,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """`image` with the masks tinted and outlined, and each instance's name, track and score.

    Where masks overlap, the one with the better score is seen. The colour stands for the track, or
    for the class of what is not tracked; see `instance_colors`. Names are moved so that they stay
    inside the image and off each other; they are left out where there is no room, and on small
    objects in a crowd.

    Args:
        image: [H, W, 3] uint8 RGB.
        alpha: opacity of the tint, in [0, 1].
        labels: whether to write names and scores.
        out: where the result goes; may be `image` itself. A new image if not given.

    Raises:
        ValueError: the instances belong to an image of another size, or `out` does not fit.
    """
    if image.shape != (*instances.image_size, 3):
        raise ValueError(
            f"image must be uint8 {(*instances.image_size, 3)}, got {image.dtype} {image.shape}"
        )
    output = canvas(image, out)
    if len(instances):
        colors = instance_colors(instances)
        masks = draw_masks(output, instances, colors, alpha)
        if labels:
            draw_labels(output, instances, masks, colors)
    return output
