"""Tells a checkpoint by its first bytes, whatever its name, so that messages say what was given. Nothing is loaded."""

from __future__ import annotations

from pathlib import Path

_HEAD = 512
_ZIP = b"PK\x03\x04"  # a PyTorch file is a ZIP archive whose first member is NAME/data.pkl
_ZIP_NAME_LENGTH, _ZIP_NAME = slice(26, 28), 30  # https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that begins files before PyTorch 1.6
_SAFETENSORS_LENGTH = slice(0, 8)  # of the JSON header that follows


def is_checkpoint(path: Path) -> bool:
    """Return whether a file begins as a PyTorch or safetensors file does; one that cannot be read does not."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        size = path.stat().st_size
    except OSError:
        return False
    if head.startswith(_ZIP):
        length = int.from_bytes(head[_ZIP_NAME_LENGTH], "little")
        return head[_ZIP_NAME : _ZIP_NAME + length].endswith(b"/data.pkl")
    if head.startswith(_OLD_TORCH):
        return True
    return head[8:9] == b"{" and int.from_bytes(head[_SAFETENSORS_LENGTH], "little") <= size - 8
