"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with other positions and other heads."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...scheduler import Program
from ..sentence import SentenceHead
from . import bert
from .blocks import begin
from .heads import HeadWeights, finish

TASK = "encoder"
PREFIX = "roberta."
BUFFERS = bert.BUFFERS
OTHER_HEADS = bert.OTHER_HEADS
HEADS = HeadWeights(
    table="embeddings.word_embeddings",
    transform="lm_head.dense",
    norm="lm_head.layer_norm",
    decoder="lm_head.decoder",
    bias="lm_head.bias",
    pooled="classifier.dense",
    pooled_activation="tanh",
    sequence="classifier.out_proj",
)


class Config(bert.Config):
    """The keys of RoBERTa's config.json that shape the computation."""

    padding: int = Field(default=1, alias="pad_token_id", ge=0)

    @property
    def context(self) -> int:
        """The maximum number of tokens: their positions begin after that of padding."""
        return self.positions - self.padding - 1


def read_config(document: Mapping[str, Any]) -> bert.Config:
    """Check a config.json."""
    config = bert.read_config(document, Config)
    if config.context < 1:
        raise ValueError(
            f"max_position_embeddings = {config.positions} leaves no position after that of "
            f"pad_token_id = {document.get('pad_token_id', 1)}"
        )
    return config


def program(config: Config, ending: str, sentence: SentenceHead) -> Program:
    """Write the forward pass; `ending` is "hidden" (states), "sentence" or "logits"."""
    p = begin()
    x = bert.encoded(config, p, config.padding)
    return finish(p, x, config, ending, sentence, HEADS, "gelu", config.epsilon)
