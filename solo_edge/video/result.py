"""What the stages of a stream hand on to the sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.video.base import Frame
from solo_edge.video.states import StateChange

if TYPE_CHECKING:
    from solo_edge.draw import Shape
    from solo_edge.instances import Instances

__all__ = ["ProcessedFrame", "Sink", "StreamStatus"]


@dataclass(frozen=True, eq=False)
class ProcessedFrame:
    """A frame with what was found in it."""

    source_index: int  # which of the sources, from 0
    source: str  # its name, without credentials
    frame: Frame
    instances: Instances  # those that passed the filters
    events: tuple[Mapping[str, Any], ...] = ()  # of zones and lines, ready for JSON
    age_ms: float = 0.0  # from its capture to the start of its inference
    stage_ms: dict[str, float] = field(default_factory=dict)  # by stage, as far as it has come
    overlay: NDArray[np.uint8] | None = None  # [H, W, 3] RGB, all drawn; if a sink wants it
    shapes: Sequence[Shape] = ()  # zones and lines, for whoever draws


@dataclass(frozen=True)
class StreamStatus:
    """How one source of a running stream is doing. Frames that wait are neither processed nor dropped."""

    source: str
    state: str  # of `solo_edge.video.states.SourceState`
    captured: int
    processed: int
    dropped: int
    fps: float | None  # of the last frames
    instances: int  # in the latest one
    frame_count: int | None  # of the source, if it has an end
    latency_ms: float | None  # of the latest frame, from capture to the last sink
    stage_ms: dict[str, float]  # of the latest frame, by stage
    age_ms: float | None = None  # of the latest frame, from capture to the start of its inference


class Sink(Closing):
    """Where results go. All calls but `close` come from one thread, in order; `close` after the last one."""

    name: str  # of its stage in reports

    @property
    def wants_overlay(self) -> bool:
        """Whether the next frame has to be drawn for it; may change from frame to frame."""
        return False

    def write(self, result: ProcessedFrame) -> None:
        """Take a frame. Must not change its arrays, which others see too.

        Raises:
            SoloEdgeError: it cannot be written; the stream ends with that error.
        """
        raise NotImplementedError

    def source_changed(self, source_index: int, change: StateChange) -> None:
        """A source went into another state."""

    def status(self, statuses: tuple[StreamStatus, ...]) -> None:
        """How all sources are doing, in their order; about once a second."""
