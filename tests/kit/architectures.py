"""Tiny random models of many architectures, made with transformers' own config classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
_BART = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}


_SPARSE = {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Parameters
    ----------
    model : class of transformers
    config : config class of transformers
    settings : of the config
    inputs : makes the inputs of a pass: "text", "pairs", "image", "clip", "sound", "spectrum"
    caches : whether it decodes with a cache of keys and values
    """

    model: str
    config: str
    settings: dict[str, Any]
    inputs: str = "text"
    caches: bool = False


def _decoder(model: str, config: str, settings: dict[str, Any], **more: Any) -> Architecture:
    return Architecture(model, config, settings | more, "text", caches=True)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _decoder("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "mistral": _decoder("MistralForCausalLM", "MistralConfig", _GROUPED),
    "qwen2": _decoder("Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "qwen3": _decoder("Qwen3ForCausalLM", "Qwen3Config", _GROUPED, head_dim=8),
    "gemma": _decoder("GemmaForCausalLM", "GemmaConfig", _GROUPED, head_dim=8),
    "gemma2": _decoder("Gemma2ForCausalLM", "Gemma2Config", _GROUPED, head_dim=8),
    "gemma3": _decoder("Gemma3ForCausalLM", "Gemma3TextConfig", _GROUPED, head_dim=8),
    "phi": _decoder("PhiForCausalLM", "PhiConfig", _TEXT),
    "phi3": _decoder("Phi3ForCausalLM", "Phi3Config", _GROUPED),
    "gpt2": _decoder(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neo": _decoder(
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {"vocab_size": 96, "hidden_size": 32, "num_layers": 2, "num_heads": 4},
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
        window_size=8,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neox": _decoder("GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT),
    "gptj": _decoder(
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        rotary_dim=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "opt": _decoder(
        "OPTForCausalLM",
        "OPTConfig",
        {key: value for key, value in _TEXT.items() if key != "intermediate_size"},
        ffn_dim=48,
        word_embed_proj_dim=32,
    ),
    "bloom": _decoder(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        bos_token_id=1,
        eos_token_id=2,
    ),
    "falcon": _decoder("FalconForCausalLM", "FalconConfig", _TEXT),
    "starcoder2": _decoder("Starcoder2ForCausalLM", "Starcoder2Config", _GROUPED),
    "stablelm": _decoder("StableLmForCausalLM", "StableLmConfig", _GROUPED),
    "olmo": _decoder("OlmoForCausalLM", "OlmoConfig", _GROUPED),
    "olmo2": _decoder("Olmo2ForCausalLM", "Olmo2Config", _GROUPED),
    "cohere": _decoder("CohereForCausalLM", "CohereConfig", _GROUPED),
    "granite": _decoder("GraniteForCausalLM", "GraniteConfig", _GROUPED),
    "smollm3": _decoder("SmolLM3ForCausalLM", "SmolLM3Config", _GROUPED),
    "glm": _decoder("GlmForCausalLM", "GlmConfig", _GROUPED, head_dim=8),
    "mixtral": _decoder(
        "MixtralForCausalLM", "MixtralConfig", _GROUPED, num_local_experts=4, num_experts_per_tok=2
    ),
    "qwen2_moe": _decoder(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        _GROUPED | _EXPERTS,
        num_experts=4,
        shared_expert_intermediate_size=24,
    ),
    "qwen3_moe": _decoder(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", _GROUPED | _EXPERTS, num_experts=4, head_dim=8
    ),
    "olmoe": _decoder(
        "OlmoeForCausalLM", "OlmoeConfig", _GROUPED, num_experts=4, num_experts_per_tok=2
    ),
    "gpt_oss": _decoder("GptOssForCausalLM", "GptOssConfig", _SPARSE, head_dim=8, sliding_window=8),
    "deepseek_v3": _decoder(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        _TEXT | _EXPERTS | {"num_key_value_heads": 4, "n_routed_experts": 4},
        **{"n_group": 1, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16},
        **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
        first_k_dense_replace=1,
    ),
    "phimoe": _decoder("PhimoeForCausalLM", "PhimoeConfig", _SPARSE),
    "granitemoe": _decoder("GraniteMoeForCausalLM", "GraniteMoeConfig", _SPARSE),
    "persimmon": _decoder("PersimmonForCausalLM", "PersimmonConfig", _TEXT),
    "mpt": _decoder(
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": 96, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    ),
    "biogpt": _decoder("BioGptForCausalLM", "BioGptConfig", _TEXT),
    "bert": Architecture("BertModel", "BertConfig", _TEXT),
    "squeezebert": Architecture(
        "SqueezeBertModel", "SqueezeBertConfig", _TEXT | {"embedding_size": 32}
    ),
    "convbert": Architecture("ConvBertModel", "ConvBertConfig", _TEXT | {"embedding_size": 16}),
    "mobilebert": Architecture(
        "MobileBertModel",
        "MobileBertConfig",
        _TEXT
        | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}
        | {"num_feedforward_networks": 2},
    ),
    "esm": Architecture(
        "EsmModel", "EsmConfig", _TEXT | {"position_embedding_type": "rotary", "mask_token_id": 3}
    ),
    "bert_mlm": Architecture("BertForMaskedLM", "BertConfig", _TEXT),
    "roberta": Architecture("RobertaForSequenceClassification", "RobertaConfig", _TEXT),
    "xlm_roberta": Architecture("XLMRobertaForTokenClassification", "XLMRobertaConfig", _TEXT),
    "distilbert": Architecture(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": 96, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    "mpnet": Architecture("MPNetModel", "MPNetConfig", _TEXT),
    "modernbert": Architecture(
        "ModernBertModel", "ModernBertConfig", _TEXT | {"cls_token_id": 1, "sep_token_id": 2}
    ),
    "albert": Architecture("AlbertModel", "AlbertConfig", _TEXT | {"embedding_size": 16}),
    "electra": Architecture("ElectraModel", "ElectraConfig", _TEXT | {"embedding_size": 16}),
    "deberta_v2": Architecture(
        "DebertaV2Model",
        "DebertaV2Config",
        _TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "xlnet": Architecture(
        "XLNetModel",
        "XLNetConfig",
        {"vocab_size": 96, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    ),
    "vit": Architecture("ViTForImageClassification", "ViTConfig", _IMAGE, "image"),
    "deit": Architecture("DeiTForImageClassification", "DeiTConfig", _IMAGE, "image"),
    "beit": Architecture("BeitForImageClassification", "BeitConfig", _IMAGE, "image"),
    "dinov2": Architecture("Dinov2Model", "Dinov2Config", _IMAGE, "image"),
    "swin": Architecture(
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        "image",
    ),
    "siglip": Architecture("SiglipVisionModel", "SiglipVisionConfig", _IMAGE, "image"),
    "clip": Architecture(
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": _TEXT | {"bos_token_id": 1, "eos_token_id": 2},
            "vision_config": _IMAGE,
            "projection_dim": 16,
        },
        "clip",
    ),
    "t5": Architecture(
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": 96,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        "pairs",
    ),
    "bart": Architecture("BartForConditionalGeneration", "BartConfig", _BART, "pairs"),
    "marian": Architecture("MarianMTModel", "MarianConfig", _BART, "pairs"),
    "pegasus": Architecture("PegasusForConditionalGeneration", "PegasusConfig", _BART, "pairs"),
    "m2m_100": Architecture("M2M100ForConditionalGeneration", "M2M100Config", _BART, "pairs"),
    "led": Architecture(
        "LEDForConditionalGeneration",
        "LEDConfig",
        {key: value for key, value in _BART.items() if key != "max_position_embeddings"}
        | {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
        | {"attention_window": 4},
        "pairs",
    ),
    "whisper": Architecture(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {key: value for key, value in _BART.items() if key != "max_position_embeddings"}
        | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32}
        | {"suppress_tokens": None, "begin_suppress_tokens": None},
        "spectrum",
    ),
    "wav2vec2": Architecture(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        {key: value for key, value in _TEXT.items() if key != "max_position_embeddings"}
        | {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
        | {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
        | {"num_feat_extract_layers": 2},
        "sound",
    ),
    "ast": Architecture(
        "ASTForAudioClassification",
        "ASTConfig",
        {**_IMAGE, "max_length": 24, "num_mel_bins": 16, "patch_size": 8}
        | {"frequency_stride": 8, "time_stride": 8},
        "patches",
    ),
}


def made(name: str, attention: str | None = None, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """Return a tiny random model, in evaluation mode, and inputs of two rows for it.

    Parameters
    ----------
    attention : "eager", "sdpa"; None takes the default of the architecture
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    found = ARCHITECTURES[name]
    config = getattr(transformers, found.config)(**found.settings)
    if attention is not None:
        config._attn_implementation = attention
    model = getattr(transformers, found.model)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # of sizes at which every part matters
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model, inputs_of(found.inputs, seed)


def inputs_of(kind: str, seed: int = 0, rows: int = 2, tokens: int = 10) -> dict[str, Any]:
    """Return inputs of a kind for a pass."""
    import torch

    torch.manual_seed(seed + 1)
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "text": lambda: {"input_ids": torch.randint(3, 96, (rows, tokens))},
        "pairs": lambda: {
            "input_ids": torch.randint(3, 96, (rows, tokens)),
            "decoder_input_ids": torch.randint(3, 96, (rows, tokens - 3)),
        },
        "image": lambda: {"pixel_values": torch.randn(rows, 3, 16, 16)},
        "clip": lambda: {
            "input_ids": torch.cat(
                [torch.randint(3, 95, (rows, tokens - 1)), torch.full((rows, 1), 2)], 1
            ),
            "pixel_values": torch.randn(rows, 3, 16, 16),
        },
        "sound": lambda: {"input_values": torch.randn(rows, 400)},
        "spectrum": lambda: {
            "input_features": torch.randn(rows, 8, 32),
            "decoder_input_ids": torch.randint(3, 96, (rows, 5)),
        },
        "patches": lambda: {"input_values": torch.randn(rows, 24, 16)},
    }
    return makers[kind]()


def output_of(output: Any) -> Any:
    """Return the tensor of a model's output that its user reads first."""
    for key in ("logits", "logits_per_image", "last_hidden_state"):
        if (value := getattr(output, key, None)) is not None:
            return value
    return output[0]
