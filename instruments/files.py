"""Files that hold the old content or the new, and documents that show when they were changed."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that its name holds the old content or the new, whenever power fails.

    What a write that was cut off leaves is named ".NAME.12345678.tmp", and may be removed.

    Raises
    ------
    OSError : when it cannot be written; the old content is still there
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    _sync_folder(path.parent)


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give a document for JSON with the SHA-256 of all that it says beside, as `sha256`."""
    return {**document, "sha256": _digest(document)}


def is_sealed(document: Mapping[str, Any]) -> bool:
    """Say whether a document that was read says what it said when it was sealed."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return bool(document.get("sha256") == _digest(rest))


def _digest(document: Mapping[str, Any]) -> str:
    """Give the SHA-256 of a document's one plain spelling: keys in order, no spaces, ASCII."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Have a new name on disk before the next is written; Windows opens no folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
