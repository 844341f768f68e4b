from __future__ import annotations

import threading

import pytest

from solo_edge.video import connection
from solo_edge.video.clock import now
from solo_edge.video.connection import Backlog, Failed, Piece


def piece(number, *, key=True, age_s=0.0, size=1):
    return Piece(number, size, key, now() - age_s)


def fill(backlog, *pieces):
    for each in pieces:
        assert backlog.put(each)


def taken(backlog):
    """All that is there: (number, wanted), and how many were skipped."""
    numbers, skipped = [], 0
    while (item := backlog.take(0.0)) is not None:
        numbers.append((item.event.data, item.wanted))
        skipped += item.skipped
    return numbers, skipped


def test_what_is_fresh_is_kept():
    backlog = Backlog(lambda: False)
    fill(backlog, *(piece(i) for i in range(5)))
    assert taken(backlog) == ([(i, True) for i in range(5)], 0)


def test_of_old_pictures_only_the_newest_counts():
    backlog = Backlog(lambda: False)
    fill(backlog, *(piece(i, age_s=1.0) for i in range(5)))
    assert taken(backlog) == ([(4, True)], 4)


def test_from_a_key_picture_on_everything_is_decoded():
    backlog = Backlog(lambda: False)
    fill(backlog, *(piece(i, key=i % 4 == 0, age_s=1.0) for i in range(7)), piece(7, key=False))
    assert taken(backlog) == ([(4, False), (5, False), (6, False), (7, True)], 4)


def test_without_a_key_picture_nothing_is_left_out():
    backlog = Backlog(lambda: False)
    fill(backlog, *(piece(i, key=False, age_s=1.0) for i in range(3)))
    assert taken(backlog) == ([(0, False), (1, False), (2, True)], 0)


def test_if_all_is_kept_it_is_kept():
    backlog = Backlog(lambda: True)
    fill(backlog, *(piece(i, age_s=9.0) for i in range(5)))
    assert taken(backlog) == ([(i, True) for i in range(5)], 0)


def test_the_end_stays_behind_what_was_skipped():
    backlog = Backlog(lambda: False)
    fill(backlog, piece(0, age_s=1.0), piece(1, age_s=1.0), Failed(None, 1))
    first, second = backlog.take(0.0), backlog.take(0.0)
    assert (first.event.data, first.wanted, first.skipped) == (1, True, 1)
    assert second.event == Failed(None, 1)


@pytest.mark.parametrize("limit", ["LIMIT_PIECES", "LIMIT_BYTES"])
def test_an_overflow_begins_anew_at_a_key_picture(monkeypatch, limit):
    monkeypatch.setattr(connection, limit, 4)
    backlog = Backlog(lambda: False)
    for i in range(10):
        backlog.put(piece(i, key=i in (0, 6)))
    assert taken(backlog) == ([(6, True), (7, True), (8, True), (9, True)], 6)


def test_a_full_backlog_that_keeps_all_makes_the_reader_wait(monkeypatch):
    monkeypatch.setattr(connection, "LIMIT_PIECES", 3)
    backlog = Backlog(lambda: True)
    thread = threading.Thread(target=lambda: [backlog.put(piece(i)) for i in range(20)])
    thread.start()
    numbers = []
    while len(numbers) < 20:
        numbers.append(backlog.take(5.0).event.data)
        assert len(backlog._events) <= 3
    thread.join(5)
    assert numbers == list(range(20))


def test_closing_wakes_both_sides(monkeypatch):
    monkeypatch.setattr(connection, "LIMIT_PIECES", 1)
    backlog = Backlog(lambda: True)
    fill(backlog, piece(0))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(backlog.put(piece(1))))]
    empty = Backlog(lambda: True)
    threads.append(threading.Thread(target=lambda: answers.append(empty.take(30.0))))
    for thread in threads:
        thread.start()
    backlog.close()
    empty.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert sorted(answers, key=str) == [False, None]
    assert backlog.take(0.0) is None
