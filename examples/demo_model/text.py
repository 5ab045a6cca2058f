"""A tokenizer and text encoder without weights: a word is a hash, a token also knows the phrase it stands in.

Only the interface of transformers that the pipeline uses is provided. Words the demo was never shown are dropped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

TEXT_DIM = 64
MAX_TOKENS = 16


@dataclass(frozen=True)
class Vocabulary:
    """The words a model was shown, "and" among them, what others mean by them, and words that mean nothing."""

    words: tuple[str, ...]
    synonyms: Mapping[str, str]
    fillers: frozenset[str]


WORDS = (
    *"and small big left right up down".split(),
    *"red green blue yellow magenta white".split(),
    *"disc square ring triangle".split(),
)
SYNONYMS = {
    "circle": "disc", "ball": "disc", "dot": "disc", "box": "square", "cube": "square", "block": "square",
    "hoop": "ring", "donut": "ring", "pyramid": "triangle", "tiny": "small", "little": "small", "large": "big",
    "huge": "big", "pink": "magenta", "purple": "magenta", "leftwards": "left", "rightwards": "right",
    "upwards": "up", "downwards": "down",
}  # fmt: skip
FILLERS = {"a", "an", "the", "moving", "moves", "flying", "going", "is", "that", "to", "towards", "with"}
SHAPES = Vocabulary(WORDS, SYNONYMS, frozenset(FILLERS))


def split_prompt(prompt: str, known: Vocabulary = SHAPES) -> tuple[list[str], list[str]]:
    """Words of a prompt that the model knows, in order, and those it does not know."""
    words = re.findall(r"[a-z]+", re.sub(r"[,;]", " and ", prompt.lower()))
    words = [known.synonyms.get(word, word) for word in words]
    unknown = [w for w in words if w not in known.words and w not in known.fillers]
    return [w for w in words if w in known.words], unknown


def word_vector(word: str, size: int) -> torch.Tensor:
    """[size] signs made from a hash: the same on every machine and version of torch."""
    digest = hashlib.sha256(word.encode()).digest()
    bits = [(digest[i // 8] >> (i % 8)) & 1 for i in range(size)]
    return torch.tensor(bits, dtype=torch.float32) * 2 - 1


class DemoTokenizer:
    """Prompts to padded word numbers, from 1 on, called the way the pipeline calls a T5 tokenizer."""

    def __init__(self, known: Vocabulary = SHAPES):
        self.known = known

    def __call__(self, prompts: list[str], max_length: int = MAX_TOKENS, **_) -> SimpleNamespace:
        ids = torch.zeros(len(prompts), max_length, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            words = split_prompt(prompt, self.known)[0][:max_length]
            ids[row, : len(words)] = torch.tensor(
                [self.known.words.index(word) + 1 for word in words], dtype=torch.long
            )
        return SimpleNamespace(input_ids=ids, attention_mask=(ids > 0).long())


class DemoTextEncoder(nn.Module):
    """[B, L] word numbers to [B, L, TEXT_DIM]: the word, the mean word of its phrase, the number of its phrase.

    A token carries its whole phrase because cross-attention knows no word order: without it, "a red disc and a blue
    square" and "a blue disc and a red square" would be the same set of tokens.
    """

    def __init__(self, known: Vocabulary = SHAPES):
        super().__init__()
        self.joint = known.words.index("and") + 1
        table = torch.stack([torch.zeros(24)] + [word_vector(word, 24) for word in known.words])
        phrase = torch.stack([torch.zeros(32)] + [word_vector("phrase " + word, 32) for word in known.words])
        number = torch.stack([word_vector(f"number {n}", 8) for n in range(MAX_TOKENS + 1)])
        self.register_buffer("table", table)
        self.register_buffer("phrase", phrase)
        self.register_buffer("number", number)

    @property
    def dtype(self) -> torch.dtype:
        return self.table.dtype

    @property
    def device(self) -> torch.device:
        return self.table.device

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        number = (input_ids == self.joint).cumsum(dim=1)
        content = (input_ids > 0) & (input_ids != self.joint)
        same = ((number[:, :, None] == number[:, None, :]) & content[:, None, :]).to(self.dtype)
        phrase = same @ self.phrase[input_ids] / same.sum(dim=-1, keepdim=True).clamp_min(1).sqrt()
        out = torch.cat([self.table[input_ids], phrase, self.number[number.clamp_max(MAX_TOKENS)]], dim=-1)
        return SimpleNamespace(last_hidden_state=out * (input_ids > 0).unsqueeze(-1).to(self.dtype))


def encode_prompts(prompts: list[str], known: Vocabulary = SHAPES) -> torch.Tensor:
    """[len(prompts), MAX_TOKENS, TEXT_DIM] embeddings, zero beyond the last word; the empty prompt is all zeros."""
    tokens = DemoTokenizer(known)(prompts)
    return DemoTextEncoder(known)(tokens.input_ids, tokens.attention_mask).last_hidden_state
