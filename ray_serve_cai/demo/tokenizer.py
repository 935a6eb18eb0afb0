"""The demo model's tokenizer, chat template, and conversations as tokens."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ray_serve_cai.demo.text import Pair

VOCABULARY = 896
MAX_LENGTH = 2048
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
IGNORED = -100  # the label that torch's cross entropy leaves out

# Plain tags and no filter but trim: the gateway renders this with another Jinja than Python's.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|assistant|>' -}}"
    "{%- elif message['role'] in ['system', 'developer'] -%}{{- '<|system|>' -}}"
    "{%- else -%}{{- '<|user|>' -}}{%- endif -%}"
    "{{- (message['content'] or '') | trim -}}{{- eos_token -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@dataclass(frozen=True)
class Example:
    tokens: list[int]
    labels: list[int]


class Encoder:
    """Conversations to tokens, the same way as the chat template, with the answers as labels."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._bos, self._eos, self._system, self._user, self._assistant = (
            tokenizer.convert_tokens_to_ids([BOS, EOS, *ROLES])
        )
        self.pad: int = tokenizer.convert_tokens_to_ids(PAD)

    def text(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def example(self, system: str, turns: Iterable[tuple[str, str]]) -> Example:
        tokens = [self._bos]
        if system:
            tokens += [self._system, *self.text(system), self._eos]
        labels = [IGNORED] * len(tokens)
        for question, answer in turns:
            prompt = [self._user, *self.text(question.strip()), self._eos, self._assistant]
            reply = [*self.text(answer), self._eos]
            tokens += prompt + reply
            labels += [IGNORED] * len(prompt) + reply
        return Example(tokens, labels)


def build_tokenizer(pairs: list[Pair]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(tokenizer_lines(pairs), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def tokenizer_lines(pairs: list[Pair]) -> Iterator[str]:
    """Answers weigh more, since each of their tokens is a step of decoding."""
    for pair in pairs:
        yield from [pair.answer] * 4
        for question in pair.questions:
            yield question
            yield question.lower()
            yield question.upper()


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    # The template goes into tokenizer_config.json, where every engine and the gateway look for it.
    tokenizer.save_pretrained(out, save_jinja_files=False)
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # transformers 5 writes a class name of its own, which 4 does not know; both know this one.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
