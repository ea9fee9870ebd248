"""What sentence-transformers put after an encoder: pooling, dense layers, normalisation; prompts.

modules.json names the modules in order, each with a folder of its own. Those that are not computed
here are refused. Without a modules.json, tokens are averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..instruments import InputError
from ..scheduler import BATCH, ProgramBuilder, shape
from .blocks import LayerWriter
from .weights import Stored, read_json, read_json_list, read_safetensors

_POOLINGS = {  # name in newer files -> in older ones
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_ACTIVATIONS = {
    "Identity": "",
    "Tanh": "tanh",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
_NORM_EPSILON = 1e-5  # of torch.nn.LayerNorm


@dataclass(frozen=True)
class Module:
    """One module after the pooling.

    Parameters
    ----------
    kind : "Dense", "LayerNorm" or "Normalize"
    name : of its folder; its tensors are called NAME.linear.weight and so on
    outputs, bias, activation : of a Dense module
    """

    kind: str
    name: str
    outputs: int = 0
    bias: bool = True
    activation: str = ""


@dataclass(frozen=True)
class SentenceHead:
    """What turns hidden states [B, T, d] into an embedding [B, e].

    Parameters
    ----------
    poolings : one after another in the result
    prompt : put before every sentence
    is_lower_case : whether sentences are made lower-case
    limit : most tokens of a sentence; None: the model's context
    """

    poolings: tuple[str, ...] = ("mean",)
    modules: tuple[Module, ...] = ()
    prompt: str = ""
    is_lower_case: bool = False
    limit: int | None = None

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
                part, weight = f"{number}.dense", f"{module.name}.linear"
                x = layer.project(part, "classifier", x, weight, module.outputs, module.bias)
                x = layer.activate(part, x, module.activation) if module.activation else x
        return x


def read_sentence_head(folder: Path) -> tuple[SentenceHead, dict[str, Stored]]:
    """Read what stands beside an encoder, and the tensors of its modules.

    Raises
    ------
    InputError : naming the file, and a module, a key or a value that is not computed
    """
    modules: list[Module] = []
    stored: dict[str, Stored] = {}
    (_, pooling), *others = _listed(folder / "modules.json") or [("Pooling", "1_Pooling")]
    for kind, name in others:
        settings = folder / name / "config.json"
        modules.append(_dense(settings, name) if kind == "Dense" else Module(kind, name))
        if kind != "Normalize":
            stored |= _tensors(folder / name, name)
    path = folder / pooling / "config.json"
    settled = read_json(path) if path.is_file() else {}
    prompt = _prompt(folder)
    if prompt and settled.get("include_prompt", True) is False:
        raise InputError(f"{path}: include_prompt = false is not computed by lightloom")
    is_lower, limit = _limits(folder)
    return SentenceHead(_poolings(path, settled), tuple(modules), prompt, is_lower, limit), stored


def _listed(path: Path) -> list[tuple[str, str]]:
    """Return kind and folder of the pooling and of each module after it.

    None without a modules.json.
    """
    if not path.is_file():
        return []
    found = []
    for entry in read_json_list(path):
        kind, name = (entry.get(k) if isinstance(entry, dict) else None for k in ("type", "path"))
        if not isinstance(kind, str) or not isinstance(name, str) or ".." in Path(name).parts:
            raise InputError(f"{path}: {entry!r} is not a module with a type and a path")
        found.append((kind.rpartition(".")[2], name))
    known = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
    for kind, name in found:
        if kind not in known:
            raise InputError(
                f"{path}: the module {kind!r} ({name or '.'}) is not computed by lightloom; it "
                f"computes {', '.join(known)}"
            )
    kinds = [kind for kind, _ in found]
    if kinds[:1] != ["Transformer"] or kinds.count("Transformer") > 1:
        raise InputError(
            f"{path}: the modules {', '.join(kinds)} do not begin with one Transformer"
        )
    if found[0][1] not in ("", "."):
        raise InputError(
            f"{path}: the Transformer lies in {found[0][1]!r}; lightloom reads it beside the file"
        )
    after = [each for each in found if each[0] not in ("Transformer", "Dropout")]
    if not after or after[0][0] != "Pooling" or kinds.count("Pooling") > 1:
        raise InputError(
            f"{path}: of the modules {', '.join(kinds)}, not one Pooling follows the Transformer"
        )
    return after


def _poolings(path: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    given = settings.get("pooling_mode")
    if given is None:
        given = [name for name, old in _POOLINGS.items() if settings.get(old)] or ["mean"]
    modes = [given] if isinstance(given, str) else given
    old = {key for key, value in settings.items() if key.startswith("pooling_mode_") and value}
    unknown = sorted(old - set(_POOLINGS.values()))
    if not isinstance(modes, list) or not modes or unknown or not set(modes) <= set(_POOLINGS):
        raise InputError(
            f"{path}: pooling {unknown or modes!r} is not computed by lightloom; it computes "
            f"{', '.join(_POOLINGS)}"
        )
    return tuple(modes)


def _dense(path: Path, name: str) -> Module:
    settings = read_json(path)
    outputs, bias = settings.get("out_features"), settings.get("bias", True)
    whole = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = str(whole).rpartition(".")[2]
    if not str(whole).startswith("torch.nn.") or activation not in _ACTIVATIONS:
        raise InputError(
            f"{path}: activation_function = {whole!r} is not computed by lightloom; it computes "
            f"{', '.join(_ACTIVATIONS)} of torch.nn"
        )
    if not isinstance(outputs, int) or outputs < 1 or not isinstance(bias, bool):
        raise InputError(f"{path}: out_features = {outputs!r}, bias = {bias!r} is not a layer")
    usual = {"use_residual": False, "module_input_name": "sentence_embedding"}
    for key, value in (usual | {"module_output_name": usual["module_input_name"]}).items():
        if settings.get(key) not in (None, value):
            raise InputError(f"{path}: {key} = {settings[key]!r} is not computed by lightloom")
    return Module("Dense", name, outputs, bias, _ACTIVATIONS[activation])


def _tensors(folder: Path, name: str) -> dict[str, Stored]:
    path = folder / "model.safetensors"
    if not path.is_file():
        pickled = " (pytorch_model.bin can run code when opened; convert it first)"
        beside = (folder / "pytorch_model.bin").is_file()
        raise InputError(f"{folder} holds no model.safetensors{pickled if beside else ''}")
    return {f"{name}.{key}": entry for key, entry in read_safetensors(path).stored.items()}


def _prompt(folder: Path) -> str:
    """Return the prompt that is put before a sentence unless another one is asked for."""
    path = folder / "config_sentence_transformers.json"
    settings = read_json(path) if path.is_file() else {}
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts") or {}
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prompt, str):
        raise InputError(f"{path}: default_prompt_name = {name!r} is not among its prompts")
    return prompt


def _limits(folder: Path) -> tuple[bool, int | None]:
    """Return whether sentences become lower-case, and the most tokens of one."""
    path, key = folder / "sentence_bert_config.json", "max_seq_length"
    settings = read_json(path) if path.is_file() else {}
    limit = settings.get(key)
    if limit is None and (folder / "tokenizer_config.json").is_file():
        path, key = folder / "tokenizer_config.json", "model_max_length"
        limit = read_json(path).get(key)
        limit = None if isinstance(limit, float) else limit  # 1e30: no limit
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InputError(f"{path}: {key} = {limit!r} is not a number of tokens")
    return settings.get("do_lower_case") is True, limit
