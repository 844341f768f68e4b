"""A page for browsers: live video with what was found, for devices without a screen. See `WebViewer`.

    pipeline's thread ─ WebViewer.write ─► Board (the newest of everything)
                                             │ looks
    server's thread ─ server.py: routes.py (page, status, MJPEG, snapshot, events), channel.py (WebSocket)
                                             │ asks for a picture
    one encoder thread ─ pictures.py: JPEG and outlines, once per frame and quality

`address.py` says where the page is, `access.py` who may see it, `static/` is what the browser runs.
"""

from solo_edge.video.web.viewer import WebViewer

__all__ = ["WebViewer"]
