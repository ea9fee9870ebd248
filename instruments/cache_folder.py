"""`CacheFolder`: arrays that can be computed again, kept for the next start.

An entry holds named arrays under a key of everything that they follow from. It carries a checksum,
and is written completely or not at all. A folder that cannot be used costs one remark: what it
holds is computed as if it were empty.
"""

import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from .environment import CACHE, is_cache_on
from .files import move
from .text import say
from .version import VERSION

MOST_BYTES = 2 << 30  # of all entries
_LEFT_FREE = 64 << 20  # of a disk, for what cannot be computed again
_MAGIC = b"lightloom cache, schema 1\n"
_DIGEST = 32  # bytes of BLAKE2b at the end of an entry
_ALIGNED = 64
_NAMES = re.compile(r"[a-z]+-[0-9a-f]{32}\.cache|\.[a-z]+-[0-9a-f]{32}\.[0-9a-f]{8}\.draft")
_DRAFT_AGE_S = 3600.0  # after which the writer of a draft has ended
Arrays = Mapping[str, np.ndarray]
_said: set[tuple[Path, str]] = set()


def open_cache() -> "CacheFolder | None":
    """Return the cache of this user; None where it is off, or there is no home folder."""
    folder = cache_path()
    return None if folder is None else _opened(folder)


def kept(kind: str, key: str | None, compute: Callable[[], Arrays]) -> Arrays:
    """Return arrays that an earlier run kept; otherwise compute them, and keep them.

    Parameters
    ----------
    kind : of entry, in small letters, such as "ranges"
    key : of everything that the arrays follow from; None keeps nothing
    """
    cache = open_cache()
    if cache is None or key is None:
        return compute()
    found: Arrays | None = cache.load(kind, key)
    if found is None:
        found = compute()
        if found:
            cache.store(kind, key, found)
    return found


@lru_cache
def _opened(folder: Path) -> "CacheFolder":
    return CacheFolder(folder)


def cache_path() -> Path | None:
    """Return the folder of the cache: by LIGHTLOOM_CACHE, or the one that the system provides."""
    named = os.environ.get(CACHE, "").strip()
    if not is_cache_on():
        return None
    if named:
        path = Path(named)
        with suppress(RuntimeError):  # no user has that name
            path = path.expanduser()  # a shell leaves "~" between quotes
        return path.absolute()
    return user_folder()


def user_folder() -> Path | None:
    """Return the folder that the system provides for caches; None for a user without a home."""
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            base = Path(local) if local else Path.home() / "AppData" / "Local"
            return base / "lightloom" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "lightloom"
        shared = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache"
        return base / "lightloom"
    except RuntimeError:
        return None


def key_of(parts: Mapping[str, Any]) -> str:
    """Return a key of everything that an entry follows from, given as JSON."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return blake2b(text.encode(), digest_size=_DIGEST).hexdigest()


@dataclass(frozen=True)
class CacheFile:
    """A file of a cache, its size, and when it was last used."""

    path: Path
    size_bytes: int
    used_at_s: float


class CacheFolder:
    """A folder of entries, shared by processes and by versions of lightloom.

    Parameters
    ----------
    path : of the folder; it is made when something is stored
    most_bytes : of all entries; those that were not used for longest are removed
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self.most_bytes = most_bytes
        self._can_write = True

    def load(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays of an entry; None where there is none that can be trusted.

        Parameters
        ----------
        kind : of entry, in small letters, as `store` has it
        key : see `key_of`
        """
        place = self._place(kind, key)
        try:
            content = np.fromfile(place, dtype=np.uint8)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._remark("use", f"cannot be read ({error.strerror or error})")
            return None
        arrays = _unpacked(content, kind, key)
        if arrays is None:
            self._remark("damage", f"had a damaged entry, {place.name}: it was removed")
            _remove(place)
            return None
        with suppress(OSError):
            os.utime(place)  # used now
        return arrays

    def store(self, kind: str, key: str, arrays: Arrays) -> None:
        """Keep arrays; where that is not possible, say so once."""
        if not self._can_write:
            return
        place = self._place(kind, key)
        draft = place.with_name(f".{place.stem}.{secrets.token_hex(4)}.draft")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            size = sum(array.nbytes for array in arrays.values())
            if size > self.most_bytes:
                return
            try:
                with draft.open("xb") as stream:  # a folder that refuses it says why
                    if shutil.disk_usage(self.path).free < size + _LEFT_FREE:
                        raise OSError("the disk is almost full")
                    for part in _packed(kind, key, arrays):
                        stream.write(part)
                _put(draft, place)
            finally:
                _remove(draft)
            self._make_room(place)
        except OSError as error:
            self._can_write = False
            self._remark("use", f"cannot be written ({self._reason(error)})")

    def _reason(self, error: OSError) -> str:
        """Return why nothing can be written, in words that fit a folder."""
        if isinstance(error, FileExistsError):
            return "it is not a folder"
        if isinstance(error, FileNotFoundError):  # of a folder such as /proc
            return "the system makes no files or folders there"
        return error.strerror or str(error)

    def files(self) -> list[CacheFile]:
        """Return all files of this cache, the one that was used last at the end."""
        found = []
        with suppress(OSError):
            for path in self.path.iterdir():
                if _NAMES.fullmatch(path.name):
                    with suppress(OSError):  # removed meanwhile
                        status = path.stat()
                        found.append(CacheFile(path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.used_at_s)

    def clear(self) -> None:
        """Remove all entries; other files in the folder stay."""
        for file in self.files():
            _remove(file.path)

    def _place(self, kind: str, key: str) -> Path:
        digest = key_of({"schema": _MAGIC.decode(), "kind": kind, "key": key})
        return self.path / f"{kind}-{digest[:32]}.cache"

    def _make_room(self, stored: Path) -> None:
        """Remove drafts that were left, and the entries that were not used for longest."""
        files = self.files()
        total = sum(file.size_bytes for file in files)
        for file in files:
            is_left = file.path.suffix == ".draft" and file.used_at_s < time.time() - _DRAFT_AGE_S
            is_old = total > self.most_bytes and file.path.suffix == ".cache"
            if is_left or (is_old and file.path != stored):
                _remove(file.path)
                total -= file.size_bytes

    def _remark(self, what: str, why: str) -> None:
        """Say once in this process what is wrong with the folder, and that nothing is lost."""
        if (self.path, what) not in _said:
            _said.add((self.path, what))
            say(
                f"the cache {self.path} {why}; numbers are computed again instead. "
                f"{CACHE} names another folder, or is 'off'"
            )


def _packed(kind: str, key: str, arrays: Arrays) -> Iterator[bytes | memoryview]:
    """Yield the parts of an entry: what it is, its arrays, and a digest of all that."""
    places, at = {}, 0
    for name, array in arrays.items():
        places[name] = {"type": array.dtype.str, "shape": list(array.shape), "first": at}
        at += -(-array.nbytes // _ALIGNED) * _ALIGNED
    about = {"kind": kind, "key": key, "lightloom": VERSION, "arrays": places}
    head = _MAGIC + json.dumps(about).encode()
    head += b" " * (-(len(head) + 1) % _ALIGNED) + b"\n"
    state = blake2b(head, digest_size=_DIGEST)
    yield head
    for array in arrays.values():
        part = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        padding = bytes(-array.nbytes % _ALIGNED)
        state.update(part)
        state.update(padding)
        yield part
        yield padding
    yield state.digest()


def _unpacked(content: np.ndarray, kind: str, key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays of an entry; None where it is damaged or is another entry."""
    if content[: len(_MAGIC)].tobytes() != _MAGIC or len(content) < len(_MAGIC) + _DIGEST:
        return None
    body, digest = content[:-_DIGEST], content[-_DIGEST:].tobytes()
    if blake2b(body.data, digest_size=_DIGEST).digest() != digest:
        return None
    # the head is the only part whose end may hold a line break before any other at such a place
    end = _ALIGNED * int(np.argmax(body[_ALIGNED - 1 :: _ALIGNED] == ord("\n"))) + _ALIGNED - 1
    about = json.loads(body[len(_MAGIC) : end].tobytes())
    if (about["kind"], about["key"]) != (kind, key):
        return None
    found = {}
    for name, place in about["arrays"].items():
        kind_of = np.dtype(place["type"])
        size = kind_of.itemsize * int(np.prod(place["shape"], dtype=np.int64))
        first = end + 1 + place["first"]
        found[name] = body[first : first + size].view(kind_of).reshape(place["shape"])
    return found


def _put(draft: Path, place: Path) -> None:
    """Rename a draft; an entry of that name that another process has open stays."""
    try:
        move(draft, place)
    except PermissionError:
        if not place.exists():
            raise


def _remove(path: Path) -> None:
    with suppress(OSError):  # gone already, or held by another process on Windows
        path.unlink()
