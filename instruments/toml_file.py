"""TOML files that users write, and their validated tables.

Not here: the meaning of a file, which its reader defines.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from .errors import InputError


class TomlTable(BaseModel):
    """A table of a file; refuses unknown keys, flags for numbers, and infinity or NaN.

    The docstring below a field is the meaning of its key, which the reference shows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if _holds_flag(value) and not _takes_flags(field.annotation):
            raise ValueError("true and false are not allowed here")
        return value


@dataclass(frozen=True, eq=False)
class _OneOf:
    table: Mapping[str, Any]

    def __call__(self, key: str) -> str:
        if key not in self.table:
            raise ValueError(f"choose from {', '.join(self.table)}")
        return key


def one_of(table: Mapping[str, Any]) -> AfterValidator:
    """Return a check that a text is a key of a table, to which others may add."""
    return AfterValidator(_OneOf(table))


def _holds_flag(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_holds_flag, value)))


def _takes_flags(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_flags, get_args(annotation)))


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Parameters
    ----------
    what : kind of file for messages, such as "bench file"

    Raises
    ------
    InputError : when the file cannot be read or is not TOML
    """
    try:
        return parse_toml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the {what} {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the {what} {path} is not UTF-8 text: {error.reason}") from None
    except ValueError as error:
        raise InputError(f"the {what} {path} is not valid TOML: {error}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML text.

    Raises
    ------
    ValueError : for invalid TOML, too deep nesting, or a number of thousands of digits
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
