"""`OldWords`: files of users hold words that have changed since; they are read, with one remark."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


class OldWordWarning(UserWarning):
    """An old word was read; it has a new one."""


class OldWords:
    """Puts today's words in the place of old ones, and remembers which it met."""

    def __init__(self) -> None:
        self._met: dict[str, str] = {}

    def word(self, old: str, words: Mapping[str, str]) -> str:
        """Return today's word for one that may be old.

        Parameters
        ----------
        words : old word -> today's
        """
        if not isinstance(old, str) or old not in words:
            return old
        self._met[old] = words[old]
        return words[old]

    def value(self, table: Any, key: str, words: Mapping[str, str]) -> None:
        """Replace an old value of a key, in place.

        Parameters
        ----------
        table : of a document; nothing is done to what is not a table
        words : old value -> today's
        """
        if isinstance(table, dict) and isinstance(old := table.get(key), str) and old in words:
            table[key] = words[old]
            self._met[f'{key} = "{old}"'] = f'"{words[old]}"'

    def keys(self, table: Any, words: Mapping[str, str]) -> None:
        """Replace old keys, in place and in their order; a table that holds both keeps both.

        Parameters
        ----------
        words : old key -> today's
        """
        if not isinstance(table, dict):
            return
        entries = list(table.items())
        table.clear()
        names = {key for key, _ in entries}
        for key, value in entries:
            new = words.get(key, key)
            if new != key and new not in names:
                self._met[str(key)] = new
                key = new
            table[key] = value

    def remark(self, source: str) -> None:
        """Warn once of all old words that were met.

        Parameters
        ----------
        source : names the file: "the bench file bench.toml"
        """
        if self._met:
            words = ", ".join(f"{old} is now {new}" for old, new in self._met.items())
            text = f"{source} holds old words, which are still read: {words}"
            warnings.warn(text, OldWordWarning, stacklevel=2)
