"""What a stream is to do, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from solo_edge.errors import UsageError, did_you_mean

__all__ = ["Policy", "StreamOptions", "numbered"]

Policy = Literal["latest", "all"]


@dataclass(frozen=True)
class StreamOptions:
    """How a stream works and where its results go. Everything may be left out.

    Raises:
        UsageError: values that make no sense, alone or together.
    """

    save: Path | None = None  # a video (.mp4, .mkv), or a folder for pictures
    json_path: Path | None = None  # JSON Lines
    polygons: bool = False  # in them, beside the run-length codes
    show: bool = False  # in a window
    serve: str | None = None  # as a web page at this "host:port"
    token: str | None = None  # which the page asks for; needed for other addresses than loopback
    record_events: Path | None = None  # the folder for clips of what happens
    min_score: float = 0.0  # instances below it are left out
    classes: Sequence[str] = ()  # only these; empty for all
    track: bool = False
    zones: Path | None = None  # YAML
    policy: Policy | None = None  # None: "latest" of live sources, "all" of others
    fps_limit: float | None = None  # frames of each source that are worked on in a second
    max_frames: int | None = None  # of each source
    status_every_s: float = 1.0

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            fix = "leave it out"
            raise UsageError(f"max_frames must be at least 1, got {self.max_frames}", fix=fix)
        if self.fps_limit is not None and not 0.0 < self.fps_limit < float("inf"):
            fix = "leave it out"
            raise UsageError(f"fps_limit must be more than 0, got {self.fps_limit}", fix=fix)
        if self.policy not in (None, *get_args(Policy)):
            fix = did_you_mean(str(self.policy), get_args(Policy))
            raise UsageError(f"unknown policy {self.policy!r}", fix=fix)
        if self.save is not None and self.save == self.json_path:
            what = "the video and the JSON Lines need two files"
            raise UsageError(what, where=self.save, fix="rename one")
        if self.token is not None and self.serve is None:
            raise UsageError("a token protects the web page", where="--token", fix="add --serve")
        if self.polygons and self.json_path is None:
            raise UsageError(
                "polygons go into the JSON Lines", where="--polygons", fix="add --json"
            )

    def newest_only(self, live: bool) -> bool:
        """Whether of a source, live or not, only the newest frame is worked on."""
        return self.policy == "latest" or (self.policy is None and live)


def numbered(path: Path, index: int, count: int) -> Path:
    """Where what belongs to one of `count` sources goes: OUT.mp4 -> OUT-0.mp4, if there are several."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")
