"""Atomic writes of files, and documents with a checksum that shows later changes.

An output file that a user requests replaces only an earlier output of the same kind, and is written
completely or not at all: `whole_output`.
"""

import contextlib
import gzip
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import InputError

_HEAD_BYTES = 1 << 16  # leading bytes that contain the kind of an output
_MOVE_TRIES, _MOVE_PAUSE_S = 20, 0.05  # of a rename on Windows


def check_output(path: str | Path, kind: str = "") -> None:
    """Check before the work starts that an output can be written.

    Parameters
    ----------
    kind : of output, as named in the file, such as "lightloom trace"; a file of this kind or an
        empty file may be replaced; "" replaces no file

    Raises
    ------
    InputError : when another file or folder exists there, or the parent folder does not exist
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {_named(path, kind)}: there is no folder {path.parent}")
    if not path.exists() or _is_device(path):
        return
    if not kind:
        raise InputError(f"{path} already exists; give another name, or remove it")
    if path.is_dir():
        raise InputError(f"cannot write {_named(path, kind)}: it is a folder; give a file's name")
    if path.stat().st_size and not _is_of_kind(path, kind):
        raise InputError(
            f"{path} already exists and is not a {kind}, so it is not replaced; give another "
            "name, or remove it"
        )
    if not path.stat().st_mode & 0o222:
        raise InputError(f"{path} already exists and is read-only; give another name")


@contextlib.contextmanager
def whole_output(path: str | Path, kind: str = "") -> Iterator[Path]:
    """Yield a draft path beside an output; the draft replaces the output at the end of the `with`.

    If the `with` block fails, the draft is removed and the former output stays.

    Parameters
    ----------
    kind : see `check_output`; the output must contain it, in quotes or as the text of an element

    Raises
    ------
    InputError : see `check_output`; also when the output cannot be written
    """
    check_output(path, kind)
    try:
        if _is_device(Path(path)):
            with _draft_of_device(Path(path)) as draft:
                yield draft
            return
        place = Path(os.path.realpath(path))
        draft = place.with_name(f".{place.name[:50]}.{secrets.token_hex(4)}.tmp")
        try:
            yield draft
            _sync(draft)
            check_output(path, kind)  # a file may have appeared meanwhile
            if place.exists() and kind:
                shutil.copymode(place, draft)
            move(draft, place, replaces=bool(kind))
        except BaseException:
            _remove(draft)
            raise
        _sync_folder(place.parent)
    except OSError as error:
        raise InputError(f"cannot write {_named(path, kind)}: {error.strerror or error}") from None


def write_output(path: str | Path, content: bytes, kind: str = "") -> None:
    """Write an output completely or not at all; see `whole_output`."""
    with whole_output(path, kind) as draft:
        draft.write_bytes(content)


def write_document(path: str | Path, document: Mapping[str, Any], kind: str) -> None:
    """Write a document as JSON that contains its kind; see `whole_output`."""
    text = json.dumps({"kind": kind, **document}, indent=1, allow_nan=False)
    write_output(path, f"{text}\n".encode(), kind)


def _named(path: str | Path, kind: str) -> str:
    """Return the name of an output for a message: "the trace run.json"."""
    return f"the {kind.removeprefix('lightloom ')} {path}" if kind else str(path)


def _is_of_kind(path: Path, kind: str) -> bool:
    """Return whether a file is an output of lightloom of this kind, from its first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unpacked:
                head = unpacked.read(_HEAD_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return False
    except OSError as error:
        raise InputError(
            f"cannot write {_named(path, kind)}: the existing file cannot be read "
            f"({error.strerror or error}), so it is not replaced; give another name"
        ) from None
    word = kind.encode()
    if head.startswith(b"\x89PNG"):
        text = b"Software\0" + word
        return len(text).to_bytes(4, "big") + b"tEXt" + text in head
    pattern = rb"[\"'>]" + re.escape(word) + rb"[\"'<]"
    return head.lstrip()[:1] in (b"<", b"{") and re.search(pattern, head) is not None


def _is_device(path: Path) -> bool:
    """Return whether a path is a device or a pipe, which is never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _draft_of_device(device: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lightloom-") as folder:
        draft = Path(folder) / "output"
        yield draft
        with draft.open("rb") as source, device.open("wb") as target:
            shutil.copyfileobj(source, target)


def _sync(path: Path) -> None:
    """Flush a file to disk before it is renamed; folders are skipped, since they take too long."""
    if path.is_file():
        with path.open("r+b") as stream:
            os.fsync(stream.fileno())


def _remove(draft: Path) -> None:
    with contextlib.suppress(OSError):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """Read a text in UTF-8.

    Raises
    ------
    InputError : when it cannot be read, or is in another encoding
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a UTF-8 text: byte {error.start} is {error.reason}"
        ) from None


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically: it holds the old or the new content even if power fails.

    An interrupted write leaves a file ".NAME.12345678.tmp", which may be removed.

    Raises
    ------
    OSError : when the file cannot be written; the old content is kept
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        move(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    _sync_folder(path.parent)


def move(draft: Path, place: Path, replaces: bool = True) -> None:
    """Rename a complete file or folder to its final name.

    On Windows, this fails while another program, such as a virus scanner, has one of the two open.
    It is retried there for a second.

    Parameters
    ----------
    replaces : whether it replaces an existing file

    Raises
    ------
    OSError : when it cannot be renamed
    """
    rename = draft.replace if replaces else draft.rename
    for _ in range(_MOVE_TRIES - 1 if sys.platform == "win32" else 0):
        try:
            rename(place)
            return
        except PermissionError:
            time.sleep(_MOVE_PAUSE_S)
    rename(place)


def write_probe(folder: Path, content: bytes = b"") -> None:
    """Write a file to a folder and remove it, to find out whether that is possible.

    `tempfile` is not used: on Windows, it tries billions of names in a folder that refuses files.

    Raises
    ------
    OSError : when the file cannot be written
    """
    probe = folder / f".lightloom.{secrets.token_hex(4)}.tmp"
    try:
        with probe.open("xb") as stream:
            stream.write(content)
            if content:
                stream.flush()
                os.fsync(stream.fileno())
    finally:
        _remove(probe)


def read_note(path: Path) -> dict[str, str] | None:
    """Return a short JSON object that another program wrote, its values as text.

    Returns
    -------
    None where no such object can be read
    """
    try:
        if not path.is_file():  # reading a pipe might never end
            return None
        with path.open("rb") as stream:
            found = json.loads(stream.read(_HEAD_BYTES))
        return {key: str(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def moment_of(text: str) -> str:
    """Return an ISO 8601 moment in local time; an invalid one becomes "an unknown time"."""
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document with the SHA-256 of its content added as `sha256`."""
    return {**document, "sha256": _digest(document)}


def is_sealed(document: Mapping[str, Any]) -> bool:
    """Return whether the content of a document still fits its `sha256`."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return bool(document.get("sha256") == _digest(rest))


def _digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document in canonical JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a new name is durable; Windows cannot open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
