"""Video in, video out: sources, writers and the pipeline between them."""

from solo_edge.video.pipeline import Predictor, StreamOptions, StreamReport, StreamStatus, stream
from solo_edge.video.result import ProcessedFrame, Sink
from solo_edge.video.sink import JsonLinesWriter, VideoWriter
from solo_edge.video.source import Frame, Source, open_source, redact

__all__ = [
    "Frame",
    "JsonLinesWriter",
    "Predictor",
    "ProcessedFrame",
    "Sink",
    "Source",
    "StreamOptions",
    "StreamReport",
    "StreamStatus",
    "VideoWriter",
    "open_source",
    "redact",
    "stream",
]
