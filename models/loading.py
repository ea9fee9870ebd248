"""`load_model`: from a name, a Hugging Face folder or a GGUF file to a `Model`."""

import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from types import ModuleType
from typing import Any

from ..instruments import InputError
from ..instruments.errors import import_extra
from .config_keys import read_json
from .families import bert, distilbert, gpt2, layers, llama, roberta, vit
from .generation import Generation, read_generation
from .gguf_file import open_gguf, split_set
from .gguf_header import has_magic
from .gguf_tokens import gguf_end_tokens, gguf_tokenizer, tokenizer_beside
from .model import Model
from .sentence import SentenceHead, read_sentence_head, transformer_folder
from .tokenizer import read_tokenizer
from .weights import Weights, read_folder

SHIPPED = Path(__file__).parent / "shipped"
FAMILIES: Mapping[str, ModuleType] = {
    "bert": bert,
    "camembert": roberta,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "layers": layers,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": llama,
    "roberta": roberta,
    "vit": vit,
    "xlm-roberta": roberta,
}
_CLASSES = {  # of transformers, whose results the pages of a task compute: ends of their names
    "language": ("ForCausalLM", "LMHeadModel", "Model"),
    "encoder": ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"),
    "vision": ("ForImageClassification",),
}
_LAYER = re.compile(r"(?:^|\.)(?:h|layer|layers)\.([0-9]{1,9})\.")
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of torch's parallel and compiled modules
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def load_model(name: str | Path = "digits") -> Model:
    """Open a model; its weights stay on disk until they are needed.

    Parameters
    ----------
    name : a model that comes with lightloom ("digits", "glimmer"), a Hugging Face folder
        (config.json, safetensors, tokenizer.json), a GGUF file or a folder that holds one, or a hub
        name ("sentence-transformers/all-MiniLM-L6-v2", with the extra `hub`)

    Raises
    ------
    InputError : naming the file and what is wrong with it
    MissingExtraError : when a package is needed that is not installed
    """
    if not isinstance(name, str | Path):
        raise InputError(f"{name!r} is not a model's name or path")
    try:
        model = _open(name)
        is_path = Path(name).exists() and str(name) not in shipped_names()
    except OSError as error:  # a name that no file can have, or a folder that may not be read
        raise InputError(f"no model {str(name)[:80]!r}: {error.strerror or error}") from None
    model.reopen = partial(load_model, Path(name).absolute() if is_path else str(name))
    return model


def _open(name: str | Path) -> Model:
    path = Path(name)
    if len(str(name)) > 1000 or not str(name).strip():
        raise InputError(f"no model {str(name)[:40]!r}: give a name, a folder or a file")
    shipped = SHIPPED / str(name)
    if str(name) in shipped_names():
        return _open_folder(shipped, str(name))
    if path.is_file():
        return _open_file(path)
    if path.is_dir():
        return _open_folder(path, path.resolve().name)
    if _is_hub_name(str(name)):
        return _open_folder(_fetch(str(name)), str(name))
    raise InputError(
        f"no model {str(name)!r}: there is no such file or folder; the models that come with "
        f"lightloom are {', '.join(shipped_names())}"
    )


def shipped_names() -> list[str]:
    """Return the names of the models that come with lightloom."""
    return sorted(path.name for path in SHIPPED.iterdir() if (path / "config.json").is_file())


def _open_file(path: Path) -> Model:
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when opened; "
            "lightloom loads safetensors and GGUF only"
        )
    if path.suffix.lower() == ".safetensors":
        raise InputError(f"{path} holds weights alone; give its folder, with config.json beside it")
    if path.suffix.lower() != ".gguf" and not has_magic(path):
        raise InputError(f"{path} is neither a GGUF nor a safetensors file")
    return _open_gguf(path)


def _open_folder(folder: Path, name: str) -> Model:
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} holds an adapter (adapter_config.json), which lightloom does not apply; "
            "merge it into its model first"
        )
    whole, folder = folder, transformer_folder(folder)
    if (folder / "program.json").is_file():
        return _open_program(folder, name)
    if not (folder / "config.json").is_file():
        ggufs = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
        chosen = ggufs[0] if len(ggufs) == 1 else split_set(ggufs)
        if chosen is not None:
            return _open_gguf(chosen)
        found = f"{len(ggufs)} GGUF files, name one" if ggufs else "no GGUF file"
        raise InputError(f"{folder} holds no config.json, and {found}")
    document = read_json(folder / "config.json")
    if (whole / "modules.json").is_file():  # it names what follows the hidden states
        document = {**document, "architectures": []}
    page = FAMILIES.get(str(document.get("model_type")))
    has_torch = all(map(find_spec, ("torch", "transformers")))
    if has_torch and (page is None or not _computes(page, document)):
        return _open_by_torch(folder, name, document)
    family = _family(document.get("model_type"), folder / "config.json")
    try:
        config = read_config(family, document, folder)
    except InputError as error:  # such as keys that the page does not compute
        if not has_torch:
            raise
        try:
            return _open_by_torch(folder, name, document)
        except InputError as other:
            raise InputError(f"{error}; nor by torch: {other}") from None
    return _open_page(whole, folder, name, document, family, config)


def _open_page(
    whole: Path,
    folder: Path,
    name: str,
    document: Mapping[str, Any],
    family: ModuleType,
    config: Any,
) -> Model:
    """Open a model whose family has a page, with the weights of its folder."""
    weights = read_folder(folder)
    generation = read_generation(document, folder)
    head = SentenceHead()
    if family.TASK == "encoder":
        head, tensors = read_sentence_head(whole, folder)
        weights = Weights(weights.source, weights.stored | tensors)
    path = folder / "tokenizer.json"
    tokenizer = None
    if family.TASK != "vision" and path.is_file():
        tokenizer = partial(read_tokenizer, path, head.is_lower)
    return _fitted(Model(name, whole, family, config, weights, tokenizer, head, generation))


def _computes(page: ModuleType, document: Mapping[str, Any]) -> bool:
    """Return whether a page computes what the class in `architectures` does."""
    names = document.get("architectures") or []
    return not names or str(names[0]).endswith(_CLASSES.get(page.TASK, ""))


def _open_by_torch(folder: Path, name: str, document: Mapping[str, Any]) -> Model:
    """Open a model whose architecture, or head, has no page, by tracing it from torch."""
    from .traced.by_name import open_traced

    path = folder / "tokenizer.json"
    tokenizer = partial(read_tokenizer, path, False) if path.is_file() else None
    return open_traced(folder, name, document, tokenizer)


def _open_program(folder: Path, name: str) -> Model:
    import_extra("torch", "torch", f"{folder} is a program traced from torch; running it")
    from .traced.traced_model import open_program

    path = folder / "tokenizer.json"
    return open_program(
        folder, name, partial(read_tokenizer, path, False) if path.is_file() else None
    )


def _open_gguf(path: Path) -> Model:
    found = open_gguf(path)
    beside = path.parent / "tokenizer.json"
    tokenizer: Callable[[], Any] = partial(gguf_tokenizer, found.metadata, path)
    if beside.is_file():
        tokenizer = partial(tokenizer_beside, beside, found.metadata, path)
    config = read_config(
        llama,
        found.document,
        path,
        biases=found.biases,
        has_rotary_factors=found.has_rotary_factors,
    )
    suppressed = found.metadata.get("tokenizer.ggml.suppress_tokens")
    left_out = (f"suppress_tokens = {suppressed}",) if suppressed else ()
    generation = Generation(gguf_end_tokens(found.metadata), left_out)
    weights = found.weights
    model = Model(path.stem, path, llama, config, weights, tokenizer, generation=generation)
    return _fitted(model)


def read_config(
    family: ModuleType, document: Mapping[str, Any], source: Path | str, **options: Any
) -> Any:
    """Read a config.json with its family's module.

    Raises
    ------
    InputError : naming the source, and the key and value that cannot be used
    """
    try:
        return family.read_config(document, **options)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{source}: {error}") from None


def _fitted(model: Model) -> Model:
    """Return a model with the weights that its configuration needs, checked; none is read."""
    family, config, weights = model.family, model.config, model.weights
    for wrapper in _WRAPPERS:
        if len(weights) and all(tensor.startswith(wrapper) for tensor in weights):
            weights = weights.renamed(methodcaller("removeprefix", wrapper))
    weights = weights.renamed(lambda tensor: _newer_name(tensor.removeprefix(family.PREFIX)))
    numbers = {int(found[1]) for name in weights if (found := _LAYER.search(name))}
    if len(numbers) != config.layers:  # checked before a program of as many layers is written
        raise InputError(
            f"{model.source}: the configuration has {config.layers} layers, the weights have "
            f"{len(numbers)}"
        )
    wanted = model.whole_program.weight_shapes
    if not set(wanted) & set(weights):
        raise InputError(
            f"{model.source}: no tensor has a name that this kind of model has; the first is "
            f"{next(iter(weights), None)!r}"
        )
    weights = _untied(model, wanted, weights)
    _check_head(model, wanted, weights)
    weights.check_shapes(wanted)
    model.weights = _used(model, wanted, weights)
    return model


def _newer_name(name: str) -> str:
    """Return the name of a norm's weights in newer files."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(f"LayerNorm{old}"):
            return name.removesuffix(old) + new
    return name


def _copies(model: Model, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return the tensors that a file may hold twice: name -> name of the one that is used."""
    family, found = model.family, dict[str, str]()
    if model.task == "language":
        found = {"lm_head.weight": family.head_weight(model.config)}
    elif model.task == "encoder":
        found = family.HEADS.copies(model.config)
    return {name: used for name, used in found.items() if name not in wanted}


def _untied(model: Model, wanted: Mapping[str, Any], weights: Weights) -> Weights:
    """Return weights with tied tensors under their own names; a file may name only the copies."""
    copies = _copies(model, wanted)
    alone = {copy: used for copy, used in copies.items() if copy in weights and used not in weights}
    return weights.renamed(lambda name: alone.get(name, name)) if alone else weights


def _check_head(model: Model, wanted: Mapping[str, Any], weights: Weights) -> None:
    """Refuse a model without the head that its program ends with."""
    if model.head:
        body = model.program("hidden").weight_shapes
        missing = [name for name in wanted if name not in body and name not in weights]
        if missing:
            raise InputError(
                f"{model.source} holds no {missing[0]}, of the {model.head} that architectures in "
                "config.json names; take a file that was saved with it, or remove that key to get "
                "hidden states"
            )
        return
    for name, what in (("lm_head.weight", "language model"), ("classifier.weight", "classifier")):
        if name in wanted and name not in weights:
            others = sorted(tensor for tensor in weights if re.match(r"(score|qa_)", tensor))
            raise InputError(
                f"{model.source} holds no {name}: it is the body of a {what} without its head"
                + (f" (but {', '.join(others)})" if others else "")
                + "; take a file that was saved with it"
                + (", or set tie_word_embeddings to true" if "lm_head" in name else "")
            )


def _used(model: Model, wanted: Mapping[str, Any], weights: Weights) -> Weights:
    """Return the used weights; drop buffers and heads for other tasks, refuse all others."""
    family, left = model.family, set(weights) - set(wanted)
    buffers = {name for name in left if re.fullmatch(family.BUFFERS, name)}
    for name, used in _copies(model, wanted).items():
        if name in left and not weights.are_equal(name, used):
            what = "the embedding" if name.endswith("weight") else used
            raise InputError(
                f"{model.source}: tie_word_embeddings is {str(model.config.tied).lower()}, but the "
                f"stored {name} is not {what}; change the key, or remove the tensor"
            )
        buffers |= {name} & left
    heads = {name for name in left - buffers if re.fullmatch(family.OTHER_HEADS, name)}
    unused = sorted(weights.stored[name].name or name for name in left - buffers - heads)
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        raise InputError(
            f"{model.source}: the model that lightloom computes does not use the tensor"
            f"{'s' if len(unused) > 1 else ''} {', '.join(map(repr, unused[:3]))}{more}: its "
            "results would be wrong; check config.json (model_type, bias keys), or remove what "
            "does not belong to the model"
        )
    if heads:
        warnings.warn(
            f"{model.source}: not used, of heads for other tasks: {', '.join(sorted(heads))}",
            stacklevel=5,
        )
    return Weights(weights.source, {n: s for n, s in weights.stored.items() if n in wanted})


def _family(kind: Any, path: Path) -> ModuleType:
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"{path}: model_type {kind!r} is an architecture that lightloom does not support "
            f"without torch (pip install 'lightloom[torch]'); it supports {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def _is_hub_name(name: str) -> bool:
    """Return whether a name can be one of the hub: OWNER/MODEL, and not a path."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).parent.exists()


def _fetch(name: str) -> Path:
    hub = import_extra("huggingface_hub", "hub", f"no folder {name!r} is here; fetching it by name")
    wanted = ["*.json", "*.safetensors"]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises many kinds, all about the network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"cannot fetch {name!r} from the hub: {reason}") from None
