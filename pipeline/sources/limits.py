"""How large what is read may be: the limits of every reader of images, videos, arrays and archives.

Headers are believed only up to here: what they claim is held against these numbers before anything is decoded.
"""

from __future__ import annotations

PIXELS = 1 << 25  # of one frame: 8K video has fewer
MEMBER = 256 << 20  # bytes of one image file, or of one member of an archive
HELD = 2 << 30  # bytes of one array or clip that is held in memory whole
MEMBERS = 10_000_000  # of one archive: the largest data set has a fifth
RATIO = 100  # declared size over stored size; images and videos are near 1, text below 20
SMALL = 16 << 20  # bytes: what may be packed tighter than that, harmless at this size


def beyond(height: int, width: int) -> str | None:
    """Return why a frame of this size is refused, None where it is not."""
    if min(height, width) < 1 or height * width > PIXELS:
        return f"claims to be {width}x{height}, frames of 1 to {PIXELS} pixels are read"
    return None
