from __future__ import annotations

import json
import weakref

import pytest

from solo_edge.video.clock import now
from solo_edge.video.result import StreamStatus
from solo_edge.video.states import Failure, SourceState, StateChange
from solo_edge.video.web.board import HISTORY, MOST_EVENTS, Board


def change(state, code=None, at_s=0.0, attempt=1):
    return StateChange("camera 0", state, code, "a message", at_s, attempt)


def status(state="playing", fps=25.0):
    return StreamStatus("camera 0", state, 5, 4, 1, fps, 2, None, 30.0, {"network": 20.0})


def test_only_the_newest_frame_of_a_source_is_kept(scenes):
    board = Board(["a", "b"], (), 0.3)
    written = []
    for index in range(5):
        result = scenes.result(index, source=1)
        written.append(weakref.ref(result))
        board.write(result)
    del result
    assert board.shown(0) is None
    assert board.shown(1).serial == 5
    assert [reference() is not None for reference in written] == [False] * 4 + [True]


def test_class_names_come_with_the_first_result(scenes):
    board = Board(["a"], (), 0.3)
    board.write(scenes.result(0))
    assert board.class_names == scenes.result(0).instances.class_names


def test_credentials_in_names_are_hidden():
    board = Board(["rtsp://user:secret@host/x?token=abc"], (), 0.3)
    assert "secret" not in json.dumps(board.describe())
    assert "abc" not in json.dumps(board.describe())


def test_a_source_is_lost_from_the_first_failure_until_it_plays():
    board = Board(["a"], (), 0.3)
    start_s = now() - 12.0
    board.source_changed(0, change(SourceState.WAITING, Failure.STALLED, start_s))
    board.source_changed(0, change(SourceState.OPENING, None, start_s + 1))
    board.source_changed(0, change(SourceState.WAITING, Failure.GONE, start_s + 2, attempt=3))
    (told,) = board.describe()
    assert told["state"] == "waiting"
    assert told["lost"]["code"] == "gone"
    assert told["lost"]["attempts"] == 3
    assert told["lost"]["for_s"] == pytest.approx(12.0, abs=1.0)
    board.source_changed(0, change(SourceState.PLAYING))
    assert board.describe()[0]["lost"] is None


def test_a_change_of_state_counts_more_than_an_older_status():
    board = Board(["a"], (), 0.3)
    board.status((status("playing"),))
    board.source_changed(0, change(SourceState.ENDED))
    assert board.describe()[0]["state"] == "ended"
    assert board.describe()[0]["captured"] == 5


def test_the_history_is_a_minute_and_shows_no_rate_of_a_lost_source():
    board = Board(["a"], (), 0.3)
    for _ in range(HISTORY + 5):
        board.status((status(),))
    board.status((status("waiting"),))
    history = board.history()
    assert len(history) == HISTORY
    assert [point[0]["fps"] for point in history[-2:]] == [25.0, 0.0]


def test_events_are_numbered_and_bounded(scenes):
    board = Board(["a"], (), 0.3)
    for index in range(MOST_EVENTS + 10):
        board.write(scenes.result(index, events=({"event": "enter"},)))
    assert len(board.events_after(0)) == MOST_EVENTS
    late = board.events_after(MOST_EVENTS + 8)
    assert [event.serial for event in late] == [MOST_EVENTS + 9, MOST_EVENTS + 10]
    assert late[0].value == {"event": "enter", "source_index": 0}


def test_there_has_to_be_a_source():
    with pytest.raises(ValueError, match="at least one"):
        Board([], (), 0.3)
