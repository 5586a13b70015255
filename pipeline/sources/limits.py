"""How large what is read may be: the limits of every reader of images, videos, arrays and archives; what of a folder is read.

Headers are believed only up to here: what they claim is held against these numbers before anything is decoded.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from pipeline.errors import RetakeError

PIXELS = 1 << 25  # of one frame: 8K video has fewer
MEMBER = 256 << 20  # bytes of one image file, or of one member of an archive
HELD = 2 << 30  # bytes of one array or clip that is held in memory whole
MEMBERS = 10_000_000  # of one archive: the largest data set has a fifth
RATIO = 100  # declared size over stored size; images and videos are near 1, text below 20
SMALL = 16 << 20  # bytes: what may be packed tighter than that, harmless at this size
DESKTOP = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX")  # what desktops leave in folders


def hidden(name: PurePath) -> bool:
    """Say whether a name below some folder is hidden (a Mac leaves `._name` beside a file), or of what desktops leave there."""
    return any(part[0] == "." or part in DESKTOP for part in name.parts)


def unhidden(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what a folder holds, by name, without what is hidden."""
    return sorted(path for path in folder.glob(pattern) if not hidden(PurePath(path.name)))


def check_file(path: Path) -> int:
    """Return how many bytes a file has; raises FileNotFoundError, and RetakeError for what is no file: a named pipe would be waited for."""
    size = path.stat().st_size
    if not path.is_file():
        raise RetakeError(f"{path} is no file but a folder, a pipe or a device: put a file there")
    return size


def text(path: Path) -> str:
    """Return a text file in UTF-8, without a byte order mark.

    Raises FileNotFoundError, and RetakeError for what is no file (a named pipe would be waited for), too large, or in another
    encoding.
    """
    if (size := check_file(path)) > MEMBER:
        raise RetakeError(f"{path} is {size} bytes, text up to {MEMBER} is read")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RetakeError(f"{path} is not UTF-8 (byte {error.start}): save it with that encoding") from None


def instead(start: bytes) -> str:
    """Return what a file that begins so is where data were expected, with what to do; "" where that is not known."""
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself: run `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is an HTML page (a login, a quota or a notice), not the file: fetch it again"
    return ""


def beyond(height: int, width: int) -> str | None:
    """Return why a frame of this size is refused, None where it is not."""
    if min(height, width) < 1 or height * width > PIXELS:
        return f"claims to be {width}x{height}, frames of 1 to {PIXELS} pixels are read"
    return None
