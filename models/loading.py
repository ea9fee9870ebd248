"""`load_model`: from a name, a Hugging Face folder or a GGUF file to a `Model`."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..instruments import InputError
from ..instruments.errors import import_extra
from . import bert, gpt2, llama, vit
from .model import Model
from .tokenizer import Tokenizer, gguf_tokenizer, read_tokenizer
from .weights import Stored, Weights, read_folder, read_gguf, read_json

SHIPPED = Path(__file__).parent / "shipped"
FAMILIES: Mapping[str, ModuleType] = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "vit": vit,
}
_LAYER = re.compile(r"(?:^|\.)(?:h|layer|layers)\.(\d+)\.")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def load_model(name: str | Path = "digits") -> Model:
    """Open a model; weights stay on disk until they are needed.

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
        f"no model {str(name)!r}: there is no such file or folder, and it is none of "
        f"{', '.join(shipped_names())}"
    )


def shipped_names() -> list[str]:
    """Give the names of the models that come with lightloom."""
    return sorted(path.name for path in SHIPPED.iterdir() if (path / "config.json").is_file())


def _open_file(path: Path) -> Model:
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when opened; "
            "lightloom loads safetensors and GGUF only"
        )
    if path.suffix.lower() == ".safetensors":
        raise InputError(f"{path} holds weights alone; give its folder, with config.json beside it")
    if path.suffix.lower() != ".gguf":
        raise InputError(f"{path} is neither a GGUF nor a safetensors file")
    return _open_gguf(path)


def _open_folder(folder: Path, name: str) -> Model:
    if not (folder / "config.json").is_file():
        ggufs = sorted(folder.glob("*.gguf"))
        if len(ggufs) == 1:
            return _open_gguf(ggufs[0])
        found = f"{len(ggufs)} GGUF files, name one" if ggufs else "no GGUF file"
        raise InputError(f"{folder} holds no config.json, and {found}")
    document = read_json(folder / "config.json")
    if "activation_function" in document:  # as GPT-2 spells it; the others say hidden_act
        document.setdefault("hidden_act", document["activation_function"])
    kind = document.get("model_type")
    family = _family(kind, folder / "config.json")
    path = folder / "tokenizer.json"
    tokenizer = None
    if family.TASK != "vision" and path.is_file():

        def tokenizer() -> Tokenizer:
            return read_tokenizer(path)

    return _assemble(name, folder, family, document, read_folder(folder), tokenizer)


def _open_gguf(path: Path) -> Model:
    weights, metadata = read_gguf(path)
    kind = metadata.get("general.architecture")
    if kind not in ("llama", "qwen2"):
        raise InputError(
            f"{path} is of architecture {kind!r}; lightloom reads llama and qwen2 from GGUF, "
            f"and {', '.join(FAMILIES)} from Hugging Face folders"
        )
    try:
        document = _gguf_config(metadata, kind, weights)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path} lacks usable metadata: {error}") from None
    renamed = weights.renamed(_gguf_name)
    if kind == "llama":
        renamed = _unpermuted(renamed, document)
    beside = path.parent / "tokenizer.json"

    def tokenizer() -> Tokenizer:
        return read_tokenizer(beside) if beside.is_file() else gguf_tokenizer(metadata, path)

    return _assemble(path.stem, path, llama, document, renamed, tokenizer)


def _assemble(
    name: str,
    source: Path,
    family: ModuleType,
    document: Mapping[str, Any],
    weights: Weights,
    tokenizer: Any,
) -> Model:
    try:
        config = family.read_config(document)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{source}: {error}") from None
    prefix = family.PREFIX
    if any(tensor.startswith(prefix) for tensor in weights):
        weights = weights.renamed(lambda tensor: tensor.removeprefix(prefix))
    numbers = [int(found[1]) for name in weights if (found := _LAYER.search(name))]
    layers = max(numbers, default=-1) + 1
    if config.layers != layers:  # said before a program of as many layers is written
        raise InputError(
            f"{source}: the configuration has {config.layers} layers, the weights have {layers}"
        )
    ending = "hidden" if family.TASK == "encoder" else "logits"
    weights.check_shapes(family.program(config, ending).weight_shapes)
    return Model(name, source, family, config, document, weights, tokenizer)


def _family(kind: Any, path: Path) -> ModuleType:
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"{path}: model_type {kind!r} is an architecture that lightloom does not know; "
            f"it knows {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def _gguf_config(metadata: Mapping[str, Any], kind: str, weights: Weights) -> dict[str, Any]:
    """Give a GGUF file's metadata in the words of a config.json."""

    def value(key: str) -> Any:
        return metadata[f"{kind}.{key}"]

    heads = value("attention.head_count")
    key_heads = metadata.get(f"{kind}.attention.head_count_kv", heads)
    for key, count in (("head_count", heads), ("head_count_kv", key_heads)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{kind}.attention.{key} = {count!r}")
    scaling = metadata.get(f"{kind}.rope.scaling.type", "none")
    document = {
        "model_type": kind,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": value("embedding_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": metadata.get(
            f"{kind}.attention.key_length", value("embedding_length") // heads
        ),
        "intermediate_size": value("feed_forward_length"),
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.get(f"{kind}.rope.freq_base", 1e4),
        "tie_word_embeddings": "output.weight" not in weights,
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }
    if scaling not in ("none", None) or "rope_freqs.weight" in weights:
        document["rope_scaling"] = {"rope_type": f"GGUF {scaling}"}  # refused by the family's page
    return document


_GGUF_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _gguf_name(name: str) -> str:
    """Give the Hugging Face name of a GGUF tensor of a Llama."""
    *layer, part, end = ["", *name.split(".")]
    before = f"layers.{layer[2]}." if len(layer) == 3 else ""
    return f"{before}{_GGUF_NAMES.get(part, part)}.{end}".lstrip(".")


def _unpermuted(weights: Weights, document: Mapping[str, Any]) -> Weights:
    """Put the rows of q and k back in order: GGUF keeps the two of each rotated pair together."""
    heads = {
        "q_proj.weight": document["num_attention_heads"],
        "k_proj.weight": document["num_key_value_heads"],
    }

    def reordered(entry: Stored, count: int) -> Stored:
        def read() -> np.ndarray:
            pairs = entry.read().reshape(count, entry.shape[0] // count // 2, 2, -1)
            return pairs.swapaxes(1, 2).reshape(entry.shape)

        return Stored(entry.shape, read)

    ends = {name: ".".join(name.split(".")[-2:]) for name in weights}
    stored = {
        name: reordered(entry, heads[ends[name]]) if ends[name] in heads else entry
        for name, entry in weights.stored.items()
    }
    return Weights(weights.source, stored)


def _is_hub_name(name: str) -> bool:
    """Say whether a name can be one of the hub's: OWNER/MODEL, no path."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).parent.exists()


def _fetch(name: str) -> Path:
    hub = import_extra("huggingface_hub", "hub", f"no folder {name!r} is here; fetching it by name")
    wanted = ["*.json", "*.safetensors"]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises many kinds, all of them about the network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"cannot fetch {name!r} from the hub: {reason}") from None
