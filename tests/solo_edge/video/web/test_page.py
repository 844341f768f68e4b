"""The page in a real browser."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from solo_edge.video.clock import now
from solo_edge.video.states import Failure, SourceState, StateChange

# Kept by the page itself: a hash of the pixels of the picture, and of what is drawn over it.
PIXELS = """(() => {
  const canvas = document.querySelector(".tile:not([hidden]) .%s");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let [hash, opaque] = [0, 0];
  for (let i = 0; i < data.length; i += 4) {
    hash = (hash * 31 + data[i] + 7 * data[i + 1] + 13 * data[i + 2]) %% 1000003;
    opaque += data[i + 3] > 0;
  }
  return [hash, opaque];
})()"""
ROWS = "[...document.querySelectorAll('.row')].map((row) => row.innerText.split('\\n')[0].trim())"
TEXT = "document.getElementById('%s').textContent"


@pytest.fixture
def show(browser, open_viewer, feed):
    """show(sources=1, **more of `Browser.open`) -> a page with moving pictures, and its feeder."""
    opened = []

    def open_page(sources: int = 1, **more: object):
        viewer = open_viewer(sources=[f"camera {i}" for i in range(sources)])
        feeder = feed(viewer, sources)
        opened.append(feeder)
        page = browser.open(viewer.url, **more)
        opened.append(page)
        page.wait_for("document.querySelectorAll('.row').length > 0")
        return page, feeder

    yield open_page
    for thing in reversed(opened):
        thing.close()


def change(page, name: str, value: float) -> None:
    page.run(
        f"(() => {{ const input = document.getElementById('{name}'); input.value = {value};"
        " input.dispatchEvent(new Event('input')); })()"
    )


def settled_rows(page) -> list[str]:
    """The list after the picture that was on the way has been taken."""
    time.sleep(0.5)
    return page.run(ROWS)


def test_the_picture_moves_and_numbers_follow(show):
    page, _ = show()
    before = page.run(PIXELS % "picture")
    page.wait_for(f"{PIXELS % 'picture'}[0] !== {before[0]}")
    fps = page.wait_for(f"Number.parseFloat({TEXT % 'fps'})")
    page.wait_for(f"Number.parseFloat({TEXT % 'fps'}) !== {fps}")
    assert page.run(TEXT % "latency").endswith(" ms")
    assert page.run(TEXT % "state") == "live"
    assert page.run(TEXT % "title") == "camera 0"
    assert "processed" in page.run(TEXT % "counts")
    assert page.run("document.querySelectorAll('#legend li').length") == 3


def test_nothing_but_this_server_is_asked_and_nobody_complains(show):
    page, feeder = show()
    page.run("document.getElementById('snapshot').click()")
    page.wait_for(f"Number.parseFloat({TEXT % 'fps'})")
    origin = feeder.viewer.url.partition("://")[2]
    requested = page.requested()
    assert len(requested) > 5
    others = [url for url in requested if url.partition("://")[2].partition("/")[0] + "/" != origin]
    assert all(url.startswith("blob:http://" + origin) for url in others)
    assert page.complaints() == []


def test_the_policy_stops_inline_scripts(show):
    page, _ = show()
    page.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"window.broken = 1\">')"
    )
    page.run("(() => { const s = document.createElement('script'); s.textContent = 'window.broken = 1';"
             " document.body.append(s); })()")  # fmt: skip
    assert page.run("window.broken") is None
    assert any("Content Security Policy" in text for text in page.complaints())


def test_the_score_filter_acts_on_picture_and_list(show):
    page, _ = show()
    page.run("document.getElementById('pause').click()")
    all_rows, (_, opaque) = settled_rows(page), page.run(PIXELS % "overlay")
    assert len(all_rows) > 1
    change(page, "score", 0.94)
    assert len(page.run(ROWS)) == 1  # the one with 0.95
    assert page.run(TEXT % "count") == "1"
    assert 0 < page.run(PIXELS % "overlay")[1] < opaque
    change(page, "score", 0.99)
    assert page.run(PIXELS % "overlay")[1] == 0
    assert page.run("!document.getElementById('none').hidden")
    change(page, "score", 0.3)
    assert page.run(ROWS) == all_rows


def test_a_class_is_hidden_by_its_chip(show):
    page, _ = show()
    page.run("document.getElementById('pause').click()")
    rows, (_, opaque) = settled_rows(page), page.run(PIXELS % "overlay")
    name = rows[0]
    chip = f"[...document.querySelectorAll('.chip')].find((c) => c.innerText.startsWith('{name}'))"
    assert int(page.run(f"{chip}.querySelector('.count').textContent")) == rows.count(name)
    page.run(f"{chip}.click()")
    assert page.run(f"{chip}.getAttribute('aria-pressed')") == "false"
    assert page.run(ROWS) == [row for row in rows if row != name]
    assert page.run(PIXELS % "overlay")[1] < opaque
    page.run(f"{chip}.click()")
    assert page.run(ROWS) == rows


def test_opacity_changes_the_overlay_at_once(show):
    page, _ = show()
    page.run("document.getElementById('pause').click()")
    settled_rows(page)
    before = page.run(PIXELS % "overlay")
    change(page, "opacity", 0)
    after = page.run(PIXELS % "overlay")
    assert 0 < after[1] < before[1]  # outlines and names stay


def test_pause_holds_the_picture_and_the_camera_goes_on(show):
    page, feeder = show()
    page.press("p")
    settled_rows(page)
    held, index = page.run(PIXELS % "picture"), feeder.index
    page.wait_for(f"{TEXT % 'state'} === 'paused'")
    while feeder.index < index + 15:
        time.sleep(0.05)
    assert page.run(PIXELS % "picture") == held
    page.press("p")
    page.wait_for(f"{PIXELS % 'picture'}[0] !== {held[0]}")


def test_pointing_at_an_instance_marks_it_and_its_row(show):
    page, _ = show()
    page.run("document.getElementById('pause').click()")
    settled_rows(page)
    row = "document.querySelectorAll('.row')[0]"
    plain = page.run(PIXELS % "overlay")
    left, top = page.run(
        f"(() => {{ const r = {row}.getBoundingClientRect(); return [r.x, r.y] }})()"
    )
    page.point_at(left + 20, top + 10)
    page.wait_for(f"{PIXELS % 'overlay'}[0] !== {plain[0]}")
    page.point_at(1, 1)
    page.wait_for(f"{PIXELS % 'overlay'}[0] === {plain[0]}")
    spot = page.run("""(() => {
      const canvas = document.querySelector('.overlay');
      const { left, top, width } = canvas.getBoundingClientRect();
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const unit = canvas.width / width;
      for (let y = 40; y < canvas.height; y += 8) for (let x = 8; x < canvas.width; x += 8) {
        const around = [[0, 0], [8, 0], [-8, 0], [0, 8], [0, -8]];
        const alpha = around.map(([dx, dy]) => data[4 * ((y + dy) * canvas.width + x + dx) + 3]);
        if (alpha.every((value) => value > 100 && value < 160)) return [left + x / unit, top + y / unit];
      }
    })()""")
    page.point_at(*spot)
    page.wait_for("document.querySelectorAll('.row.highlight').length === 1")


def test_a_snapshot_is_the_camera_s_picture_with_the_overlay(show, tmp_path):
    page, _ = show()
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.press("s")
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("solo-edge-*.png")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (file,) = tmp_path.glob("solo-edge-*.png")
    while (picture := cv2.imread(str(file))) is None:
        assert time.monotonic() < deadline
    assert picture.shape == (180, 320, 3)
    assert picture.std() > 20


def test_the_page_comes_back_after_the_server(browser, open_viewer, feed):
    first = open_viewer()
    with feed(first):
        page = browser.open(first.url)
        page.wait_for("document.querySelectorAll('.row').length > 0")
    first.close()
    page.wait_for("document.body.classList.contains('away')")
    assert "Connection lost" in page.wait_for(TEXT % "connection")
    with feed(open_viewer(first.url.strip("/").rpartition("/")[2])):
        page.wait_for("!document.body.classList.contains('away')")
        before = page.run(PIXELS % "picture")
        page.wait_for(f"{PIXELS % 'picture'}[0] !== {before[0]}")
        assert page.run("document.getElementById('connection').hidden")
    page.close()


def test_a_lost_camera_is_told_over_its_last_picture(browser, open_viewer, scenes):
    viewer = open_viewer()
    page = browser.open(viewer.url)
    banner = "(document.querySelector('.lost')?.innerText ?? '')"
    page.wait_for(f"{banner}.includes('Waiting for the first picture')")
    viewer.write(scenes.result(0))
    page.wait_for("document.querySelector('.lost').hidden")
    lost = StateChange("camera 0", SourceState.WAITING, Failure.STALLED, "no frame", now() - 12, 2)
    viewer.source_changed(0, lost)
    page.wait_for(f"/Camera lost: stalled, retrying for 1[2-9] s/.test({banner})")
    assert page.run("getComputedStyle(document.querySelector('.picture')).filter") != "none"
    page.close()


def test_a_camera_of_several_is_enlarged_and_left_again(show):
    page, _ = show(sources=4)
    visible = "[...document.querySelectorAll('.tile')].filter((tile) => !tile.hidden).length"
    assert page.run(visible) == 4
    page.wait_for("document.querySelectorAll('.tile.has-picture').length === 4")
    page.run("document.querySelectorAll('.tile')[2].click()")
    assert page.run(visible) == 1
    assert page.run(TEXT % "title") == "camera 2"
    page.press("Escape")
    assert page.run(visible) == 4
    page.press("2")
    assert page.run(TEXT % "title") == "camera 1"
    before = page.run(PIXELS % "picture")
    page.wait_for(f"{PIXELS % 'picture'}[0] !== {before[0]}")


@pytest.mark.parametrize("sources", [1, 4])
def test_a_phone_needs_no_sideways_scrolling_and_no_needle(show, sources):
    page, _ = show(sources, size=(360, 740), phone=True)
    assert page.run("document.documentElement.scrollWidth") <= 360
    sizes = page.run("""[...document.querySelectorAll("button, input, .slider")]
      .filter((e) => e.offsetParent && !e.closest(".switch"))
      .map((e) => [e.id || e.className, e.getBoundingClientRect().height])""")
    assert [name for name, height in sizes if height < 43.9] == []
    picture = page.run("document.querySelector('.tile').getBoundingClientRect().width")
    assert picture > (350 if sources == 1 else 165)


def test_zone_events_are_listed(browser, open_viewer, scenes):
    viewer = open_viewer()
    page = browser.open(viewer.url)
    page.wait_for("Boolean(document.querySelector('.tile'))")
    assert page.run("document.getElementById('events-card').hidden")
    more = {"zone": "door", "track_id": 7, "class": "fish", "seconds": 12.3}
    events = [
        {"type": "enter", **more, "timestamp_s": 65.0},
        {"type": "leave", **more, "timestamp_s": 77.3},
    ]
    viewer.write(scenes.result(0, events=tuple(events)))
    text = page.wait_for("document.getElementById('events').innerText")
    assert text.split("\n") == [
        "1:17",
        "fish #7 left door after 12 s",
        "1:05",
        "fish #7 entered door",
    ]
    page.close()


def test_a_token_lets_the_browser_in_and_disappears(browser, open_viewer, scenes):
    viewer = open_viewer(token="a-token-for-these-tests")
    viewer.write(scenes.result(0))
    # From another site's page, as from a mail: the browser sends no strict cookie with that.
    page = browser.open(f"data:text/html,<a href='{viewer.url}'>the viewer</a>")
    page.run("document.querySelector('a').click()")
    page.wait_for("document.querySelectorAll('.row').length > 0")
    assert page.run("location.href") == viewer.url.partition("?")[0]
    assert page.run("document.cookie") == ""
    page.close()
    stranger = browser.open(viewer.url.partition("?")[0])
    assert "A token is needed" in stranger.run("document.body.innerText")
    stranger.close()


def test_both_color_schemes_are_there(show):
    page, _ = show()
    background = "getComputedStyle(document.body).backgroundColor"
    seen = []
    for scheme in ("light", "dark"):
        page.prefer(color_scheme=scheme)
        seen.append(page.run(background))
    assert seen[0] != seen[1]
    levels = [np.mean([int(part) for part in color[4:-1].split(",")]) for color in seen]
    assert levels[0] > 200 > 50 > levels[1]
