"""The page that shows the latest forecast: plain HTML, CSS and JavaScript that need no other server.

It reads ``/latest.json`` and, of the forecast named there, ``layers.json`` and the pictures of
`nowcast.products.layers` below ``/forecasts/<reference time>/``. It works under
``Content-Security-Policy: default-src 'self'``.
"""

from __future__ import annotations

from importlib import resources

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "map.js": "text/javascript; charset=utf-8",
    "viewer.css": "text/css; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "viewer.svg": "image/svg+xml",
    "words.js": "text/javascript; charset=utf-8",
}
"""The files of the page; ``index.html`` belongs at ``/``, the others at their names."""


def static_files() -> dict[str, bytes]:
    """Content of each of `MEDIA_TYPES`."""
    folder = resources.files(__name__)
    return {name: folder.joinpath(name).read_bytes() for name in MEDIA_TYPES}
