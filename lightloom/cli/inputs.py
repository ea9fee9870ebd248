"""What the options of a command give a model to run on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..instruments import InputError
from ..instruments.formatting import format_counted

if TYPE_CHECKING:
    from ..models import Model

_OPTIONS = {  # of each kind of model
    "vision": ("--images",),
    "language": ("--prompt", "--text"),
    "encoder": ("--sentence", "--text"),
    "outputs": ("--arrays", "--sentence"),
}
_LONGEST_PATH = 1000
_SHOWN = 200  # characters of a path that a message shows


def chosen_inputs(model: "Model", given: dict[str, Any], limit: int | None) -> tuple[Any, Any]:
    """Return what the options ask to run, and labels where there are any.

    Parameters
    ----------
    given : option -> its value, of those in `_OPTIONS` that may be given

    Raises
    ------
    InputError : for an option that the model does not take, or a file that cannot be used
    """
    _check_options(model, given)
    if model.task == "vision":
        return _images(model, given.get("--images"), limit)
    if model.task == "outputs":
        return _arrays(model, given, limit), None
    if given.get("--prompt"):
        return given["--prompt"], None
    content = "" if given.get("--text") is None else _text(given["--text"])
    if model.task == "encoder":
        lines = (line.strip() for line in content.splitlines())
        sentences = given.get("--sentence") or [line for line in lines if line]
        if not sentences:
            raise InputError(f"{given['--text']} holds no sentence")
        return sentences[:limit], None
    return model.rows_of(content)[:limit], None


def _check_options(model: "Model", given: dict[str, Any]) -> None:
    """Refuse options that are empty, that the model does not take, or that it lacks."""
    wanted = _OPTIONS[model.task]
    used = [option for option, value in given.items() if value not in (None, [])]
    for option in used:
        if str(given[option]) in ("", "."):
            raise InputError(f"{option} is empty")
    is_wrong = len(used) > 1 or any(option not in wanted for option in used)
    if is_wrong or not (used or model.task in ("vision", "outputs")):
        raise InputError(
            f"{model.name!r} is a model of kind {model.task}: give {' or '.join(wanted)}"
            + (f", not {' and '.join(used)}" if is_wrong else "")
        )


def _images(model: "Model", path: Path | None, limit: int | None) -> tuple[Any, Any]:
    if path is None:
        path = model.source / "data.safetensors"
        if not path.is_file():
            raise InputError(f"{model.name!r} comes without images: give --images FILE")
    if len(str(path)) > _LONGEST_PATH or not path.is_file():
        raise InputError(f"no file {str(path)[:_SHOWN]!r}")
    if path.suffix.lower() == ".npy":
        return _npy(path)[:limit], None
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path}: images come as .npy or .safetensors")
    return _safetensors(path, limit)


def _arrays(model: Any, given: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Return the inputs of a model traced from torch: a file's arrays, or tokens of sentences."""
    if given.get("--sentence"):
        return {name: rows[:limit] for name, rows in model.arrays_of(given["--sentence"]).items()}
    path = given.get("--arrays")
    if path is None:  # the inputs that it was traced with
        return {name: array[:limit] for name, array in model.arrays_of([]).items()}
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        raise InputError(f"no file {str(path)[:_SHOWN]!r}: arrays come as .safetensors")
    from ..models import load_arrays

    return {name: array[:limit] for name, array in load_arrays(path).items()}


def _npy(path: Path) -> Any:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except Exception:  # numpy meets broken files with many kinds of exception
        array = None
    if not isinstance(array, np.ndarray) or not array.ndim:
        raise InputError(f"{path} is not a .npy file of numbers")
    return array


def _safetensors(path: Path, limit: int | None) -> tuple[Any, Any]:
    from ..models import load_arrays

    arrays = load_arrays(path)
    if "images" not in arrays or not arrays["images"].ndim:
        raise InputError(f"{path} holds no array 'images'")
    labels = arrays.get("labels")
    if labels is not None and labels.shape != arrays["images"].shape[:1]:
        raise InputError(
            f"{path}: labels of shape {labels.shape} for "
            f"{format_counted(len(arrays['images']), 'image')}"
        )
    return arrays["images"][:limit], None if labels is None else labels[:limit]


def _text(path: Path) -> str:
    from ..instruments.files import read_text

    content = read_text(path)
    if not content.strip():
        raise InputError(f"{path} is empty")
    return content
