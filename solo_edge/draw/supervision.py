"""Instances for those who want the annotators, zones and trackers of the package `supervision`."""

from __future__ import annotations

from typing import Any

import numpy as np

from solo_edge.errors import ResourceError
from solo_edge.instances import Instances

__all__ = ["to_supervision"]


def to_supervision(instances: Instances) -> Any:
    """The same instances as `supervision.Detections`.

    It has `xyxy` (tight boxes of the masks, the end exclusive), `mask` [N, H, W], `confidence`,
    `class_id` and `data["class_name"]`; of tracked instances also `tracker_id`, 0 for what the
    tracker is not sure of.

    Raises:
        ResourceError: the package supervision is not installed.
    """
    try:
        from supervision import Detections
    except ImportError as error:
        what, fix = "this needs the package supervision", "pip install supervision"
        raise ResourceError(what, fix=fix) from error
    return Detections(
        xyxy=instances.boxes,
        mask=instances.masks,
        confidence=instances.scores,
        class_id=instances.labels,
        tracker_id=instances.track_ids,
        data={"class_name": np.array(instances.names, dtype=np.str_)},
    )
