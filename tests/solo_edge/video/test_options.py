from __future__ import annotations

from pathlib import Path

import pytest

from solo_edge.errors import UsageError
from solo_edge.video.options import StreamOptions, numbered


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_frames": 0}, "max_frames"),
        ({"fps_limit": 0.0}, "fps_limit"),
        ({"fps_limit": float("nan")}, "fps_limit"),
        ({"policy": "every"}, "known: all, latest"),
        ({"policy": "al"}, "did you mean 'all'"),
        ({"save": Path("a.mp4"), "json_path": Path("a.mp4")}, "two files"),
        ({"token": "a long secret"}, "--serve"),
        ({"polygons": True}, "--json"),
    ],
)
def test_options_that_make_no_sense(wrong, message):
    with pytest.raises(UsageError, match=message) as caught:
        StreamOptions(**wrong)
    assert "long secret" not in str(caught.value)


def test_what_is_live_wants_the_newest():
    assert [StreamOptions().newest_only(live) for live in (True, False)] == [True, False]
    assert all(StreamOptions(policy="latest").newest_only(live) for live in (True, False))
    assert not any(StreamOptions(policy="all").newest_only(live) for live in (True, False))


def test_files_of_several_sources_are_numbered():
    assert numbered(Path("a/out.mp4"), 0, 1) == Path("a/out.mp4")
    assert numbered(Path("a/out.mp4"), 2, 3) == Path("a/out-2.mp4")
    assert numbered(Path("a/pictures"), 1, 2) == Path("a/pictures-1")
