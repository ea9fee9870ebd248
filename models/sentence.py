"""The modules of sentence-transformers after an encoder: pooling, dense layers, norms; prompts.

modules.json names the modules in order, each with a folder of its own. Modules without support are
refused. Without a modules.json, tokens are averaged.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..instruments import InputError
from ..scheduler import BATCH, ProgramBuilder, shape
from .config_keys import is_count, read_json, read_json_if_any, read_json_list
from .families.blocks import LayerWriter
from .tokenizer import Tokenizer
from .weights import Stored, read_safetensors

_POOLINGS = {  # name in newer files -> in older ones
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_ACTIVATIONS = {"torch.nn.modules.linear.Identity": ""} | {
    f"torch.nn.modules.activation.{name}": name.lower()
    for name in ("Tanh", "ReLU", "ReLU6", "GELU", "SiLU", "Sigmoid")
}
_PACKAGE = "sentence_transformers."  # its modules are supported
_MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_IGNORED = frozenset({"trust_remote_code", "torch_dtype", "dtype", "attn_implementation"})
_NORM_EPSILON = 1e-5  # of torch.nn.LayerNorm


@dataclass(frozen=True)
class Module:
    """One module after the pooling.

    Parameters
    ----------
    kind : "Dense", "LayerNorm" or "Normalize"
    name : of its folder; its tensors are called NAME.linear.weight and so on
    inputs, outputs, bias, activation : of a Dense module
    """

    kind: str
    name: str
    inputs: int = 0
    outputs: int = 0
    bias: bool = True
    activation: str = ""


@dataclass(frozen=True)
class SentenceHead:
    """The steps from hidden states [B, T, d] to an embedding [B, e].

    Parameters
    ----------
    poolings : one after another in the result
    prompt : put before every sentence
    is_lower : whether sentences are made lower-case
    limit : maximum number of tokens of a sentence; None: the model's context
    width : number of leading values of an embedding that are kept; None: all
    """

    poolings: tuple[str, ...] = ("mean",)
    modules: tuple[Module, ...] = ()
    prompt: str = ""
    is_lower: bool = False
    limit: int | None = None
    width: int | None = None

    def tokens(self, text: str, tokenizer: Tokenizer, context: int, name: str) -> list[int]:
        """Return the tokens of a sentence after its prompt; one that is too long is cut.

        Parameters
        ----------
        context, name : of the model

        Raises
        ------
        InputError : for an empty sentence
        """
        if not text.strip():
            raise InputError(f"the sentence {text!r} is empty; remove it")
        text = self.prompt + text
        limit = min(context, self.limit or context)
        ids = tokenizer.encode(text)
        if len(ids) > limit:
            warnings.warn(
                f"a sentence of {len(ids)} tokens is cut to the {limit} that {name!r} reads: "
                f"{text[:40]!r}...",
                stacklevel=4,
            )
            ids = tokenizer.encode(text, limit)
        return ids

    def write(self, p: ProgramBuilder, x: str) -> str:
        """Add the steps to a program."""
        width = p.shape(x)[-1]({})
        out = shape(BATCH, width * len(self.poolings))
        x = p.host("head.pool", "pooling", "pool", (x, "lengths"), (out,), modes=self.poolings)
        layer = LayerWriter(p, "head", None)
        for number, module in enumerate(self.modules):
            if module.kind == "Normalize":
                x = p.host(f"head.{number}.normalize", "norm", "unit_length", (x,))
            elif module.kind == "LayerNorm":
                weight = f"{module.name}.norm"
                x = layer.norm(f"{number}.norm", x, weight, _NORM_EPSILON)
            else:
                if p.shape(x)[-1]({}) != module.inputs:
                    raise InputError(
                        f"the module {module.name} takes {module.inputs} values (in_features), "
                        f"but receives {p.shape(x)[-1]}; check its config.json"
                    )
                part, weight = f"{number}.dense", f"{module.name}.linear"
                x = layer.project(part, "classifier", x, weight, module.outputs, module.bias)
                x = layer.activate(part, x, module.activation) if module.activation else x
        return x


def transformer_folder(folder: Path) -> Path:
    """Return the folder of the encoder itself: that of its modules, or one inside it."""
    path = folder / "modules.json"
    if (folder / "config.json").is_file() or not path.is_file():
        return folder
    return folder / _entries(path)[0][1]


def read_sentence_head(folder: Path, encoder: Path) -> tuple[SentenceHead, dict[str, Stored]]:
    """Read the modules after an encoder, and their tensors.

    Parameters
    ----------
    folder, encoder : of the modules, and of the encoder (see `transformer_folder`)

    Raises
    ------
    InputError : naming the file, and a module, a key or a value without support
    """
    modules: list[Module] = []
    stored: dict[str, Stored] = {}
    listed = _listed(folder / "modules.json")
    (_, pooling), *others = listed or [("Pooling", "1_Pooling")]
    for kind, name in others:
        settings = folder / name / "config.json"
        found = read_json(settings) if kind == "Dense" else read_json_if_any(settings)
        _check_names(found, settings)
        modules.append(_dense(found, settings, name) if kind == "Dense" else Module(kind, name))
        if kind != "Normalize":
            stored |= _tensors(folder / name, name)
    path = folder / pooling / "config.json"
    pooling_settings = read_json(path) if listed or path.is_file() else {"pooling_mode": "mean"}
    prompt, width = _prompt(folder / "config_sentence_transformers.json")
    if prompt and pooling_settings.get("include_prompt", True) is False:
        raise InputError(f"{path}: include_prompt = false is not computed by lightloom")
    is_lower, limit = _limits(encoder)
    poolings = _poolings(path, pooling_settings)
    return SentenceHead(poolings, tuple(modules), prompt, is_lower, limit, width), stored


def _entries(path: Path) -> list[tuple[str, str]]:
    """Return kind and folder of each module that modules.json lists, at least one."""
    found = []
    for entry in read_json_list(path):
        kind, name = (entry.get(k) if isinstance(entry, dict) else None for k in ("type", "path"))
        if not isinstance(kind, str) or not isinstance(name, str) or ".." in Path(name).parts:
            raise InputError(f"{path}: {entry!r} is not a module with a type and a path")
        found.append((kind, name))
    if not found:
        raise InputError(f"{path} lists no modules")
    return found


def _listed(path: Path) -> list[tuple[str, str]]:
    """Return kind and folder of the pooling and of each module after it.

    The list is empty without a modules.json.
    """
    if not path.is_file():
        return []
    found = []
    for kind, name in _entries(path):
        short = kind.rpartition(".")[2]
        if short not in _MODULES or not kind.startswith(_PACKAGE):
            raise InputError(
                f"{path}: the module {kind!r} ({name or '.'}) is not computed by lightloom; of "
                f"sentence_transformers it computes {', '.join(_MODULES)}"
            )
        found.append((short, name))
    kinds = [kind for kind, _ in found]
    if kinds[:1] != ["Transformer"] or kinds.count("Transformer") > 1:
        raise InputError(
            f"{path}: the modules {', '.join(kinds)} do not begin with one Transformer"
        )
    after = [each for each in found if each[0] not in ("Transformer", "Dropout")]
    if not after or after[0][0] != "Pooling" or kinds.count("Pooling") > 1:
        raise InputError(
            f"{path}: of the modules {', '.join(kinds)}, not one Pooling follows the Transformer"
        )
    return after


def _check_names(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse a module that does not read and write the embedding."""
    usual = {"module_input_name": "sentence_embedding", "use_residual": False}
    for key, value in (usual | {"module_output_name": "sentence_embedding"}).items():
        if settings.get(key) not in (None, value):
            raise InputError(f"{path}: {key} = {settings[key]!r} is not computed by lightloom")


def _poolings(path: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    given = settings.get("pooling_mode")
    old = [key for key in settings if key.startswith("pooling_mode_")]
    if "pooling_mode" not in settings:
        given = [name for name, key in _POOLINGS.items() if settings.get(key)] or ["mean"]
    modes = [given] if isinstance(given, str) else given
    unknown = sorted(key for key in old if settings[key] and key not in _POOLINGS.values())
    is_given = bool(old) or "pooling_mode" in settings
    if (
        not is_given
        or not isinstance(modes, list)
        or not modes
        or unknown
        or set(modes) - set(_POOLINGS)
    ):
        raise InputError(
            f"{path}: pooling {unknown or modes if is_given else None!r} is not computed by "
            f"lightloom; it computes {', '.join(_POOLINGS)}"
        )
    return tuple(modes)


def _dense(settings: Mapping[str, Any], path: Path, name: str) -> Module:
    inputs, outputs = settings.get("in_features"), settings.get("out_features")
    bias = settings.get("bias", True)
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"{path}: activation_function = {activation!r} is not computed by lightloom; it "
            f"computes {', '.join(_ACTIVATIONS)}"
        )
    if not is_count(inputs) or not is_count(outputs) or not isinstance(bias, bool):
        given = (
            f"{key} = {settings.get(key)!r}" for key in ("in_features", "out_features", "bias")
        )
        raise InputError(f"{path}: {', '.join(given)} is not a layer")
    return Module("Dense", name, inputs, outputs, bias, _ACTIVATIONS[activation])


def _tensors(folder: Path, name: str) -> dict[str, Stored]:
    path = folder / "model.safetensors"
    if not path.is_file():
        pickled = " (pytorch_model.bin can run code when opened; convert it first)"
        beside = (folder / "pytorch_model.bin").is_file()
        raise InputError(f"{folder} holds no model.safetensors{pickled if beside else ''}")
    return {f"{name}.{key}": entry for key, entry in read_safetensors(path).stored.items()}


def _prompt(path: Path) -> tuple[str, int | None]:
    """Return the prompt before a sentence, and the number of values of an embedding to keep."""
    settings = read_json_if_any(path)
    width = settings.get("truncate_dim")
    if width is not None and not is_count(width):
        raise InputError(f"{path}: truncate_dim = {width!r} is not a number of dimensions")
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts") or {}
    if name is None:
        return "", width
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prompt, str):
        raise InputError(f"{path}: default_prompt_name = {name!r} is not among its prompts")
    return prompt, width


_SUPPORTED: Mapping[str, tuple[Any, ...]] = {  # supported settings of the encoder
    "max_seq_length": (),
    "do_lower_case": (),
    "module_output_name": ("token_embeddings",),
    "transformer_task": ("feature-extraction",),
    "modality_config": (
        {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    ),
}


def _limits(folder: Path) -> tuple[bool, int | None]:
    """Return whether sentences become lower-case, and their maximum number of tokens."""
    paths = [folder / f"sentence_{family}_config.json" for family in _FAMILIES]
    path, key = next((path for path in paths if path.is_file()), paths[0]), "max_seq_length"
    settings = read_json_if_any(path)
    for name, value in settings.items():
        changes = value.keys() - _IGNORED if isinstance(value, dict) else value
        if changes and _SUPPORTED.get(name) != () and value not in _SUPPORTED.get(name, ()):
            raise InputError(f"{path}: {name} = {value!r} is not computed by lightloom")
    limit = settings.get(key)
    if limit is None:
        path, key = folder / "tokenizer_config.json", "model_max_length"
        limit = read_json_if_any(path).get(key)
        limit = None if isinstance(limit, float) else limit  # 1e30: no limit
    if limit is not None and not is_count(limit):
        raise InputError(f"{path}: {key} = {limit!r} is not a number of tokens")
    return settings.get("do_lower_case") is True, limit
