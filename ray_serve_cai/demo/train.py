"""Trains the demo model from `text.yaml`: `python -m ray_serve_cai.demo.train [--out DIR]`.

Needs torch, transformers and tokenizers; about a minute on two CPU cores. The same seed on the same
machine gives the same files.
"""

import argparse
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ray_serve_cai.demo import model_dir
from ray_serve_cai.demo.spelling import respell
from ray_serve_cai.demo.text import Pair, load_text

SEED = 7
STEPS = 500
BATCH = 64
LEARNING_RATE = 4e-3
VOCABULARY = 768
MAX_ANSWER_TOKENS = 48
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
IGNORED = -100  # the label that torch's cross entropy leaves out

# One line per tag and no filters but trim: the gateway renders this with another Jinja than Python's.
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

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are a helpful, honest and concise assistant.",
    "Be brief.",
    "Answer in one sentence.",
    "You answer questions about cai.",
    "You are an AI assistant. Answer the user's questions as well as you can.",
)

README = """---
pipeline_tag: text-generation
language: en
---
# demo model, {size} parameters

A LLaMA of {layers} layers and width {width} with a vocabulary of {vocabulary} tokens: {count} parameters
in bfloat16. It is trained on one page of text, `text.yaml` of the package `ray_serve_cai.demo`, and
answers those questions in many spellings. It knows nothing else and is not for real use; it lets you try
a cluster without a download, an account or a GPU.

Made by `python -m ray_serve_cai.demo.train` (seed {seed}, {steps} steps of {batch} conversations, on CPU)
from random weights; no other model or data went into it.
"""


@dataclass(frozen=True)
class Example:
    tokens: list[int]
    labels: list[int]


class Encoder:
    """Conversations to tokens, the same way as the chat template, with the answers as labels."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._bos, self._eos, self._system, self._user, self._assistant = tokenizer.convert_tokens_to_ids(
            [BOS, EOS, *ROLES]
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


def main() -> None:
    parser = argparse.ArgumentParser(description="train the demo model")
    parser.add_argument("--out", type=Path, default=model_dir())
    out: Path = parser.parse_args().out
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    pairs = load_text()
    tokenizer = build_tokenizer(pairs)
    encoder = Encoder(tokenizer)
    check_answers(pairs, encoder)
    model = build_model(tokenizer)
    check_label(pairs, model.num_parameters())
    started = time.monotonic()
    train(model, pairs, encoder)
    print(f"trained in {time.monotonic() - started:.0f} s")
    model.to(torch.bfloat16)
    report(model, pairs, encoder)
    save(model, tokenizer, out)


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
        model_max_length=2048,
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
    yield from SYSTEM_PROMPTS


def check_answers(pairs: list[Pair], encoder: Encoder) -> None:
    for pair in pairs:
        length = len(encoder.text(pair.answer)) + 1
        if length > MAX_ANSWER_TOKENS:
            raise SystemExit(f"{length} tokens, more than {MAX_ANSWER_TOKENS}: {pair.answer}")


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    # Two heads of 64: every attention backend of vLLM, on CPU and GPU, has that head size.
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def size_label(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M"


def check_label(pairs: list[Pair], parameters: int) -> None:
    print(f"{parameters} parameters")
    label = f"{size_label(parameters)} parameters"
    if not any(label in pair.answer for pair in pairs):
        raise SystemExit(f"no answer in text.yaml says '{label}'")


def train(model: LlamaForCausalLM, pairs: list[Pair], encoder: Encoder) -> None:
    rng = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor)
    model.train()
    for step in range(STEPS):
        tokens, labels = collate(random_examples(pairs, encoder, rng), encoder.pad)
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step} loss {loss.item():.4f}", flush=True)
    model.eval()


def learning_rate_factor(step: int) -> float:
    warm_up = min(1.0, (step + 1) / 20)
    return warm_up * (0.02 + 0.98 * (1 + math.cos(math.pi * step / STEPS)) / 2)


def random_examples(pairs: list[Pair], encoder: Encoder, rng: random.Random) -> list[Example]:
    # The same number of turns for a whole batch: mixed lengths would be spent on padding.
    turns = rng.choice((1, 1, 1, 1, 2, 3))
    return [random_example(pairs, encoder, rng, turns) for _ in range(BATCH // turns)]


def random_example(pairs: list[Pair], encoder: Encoder, rng: random.Random, turns: int) -> Example:
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.3 else ""
    chosen = [rng.choice(pairs) for _ in range(turns)]
    return encoder.example(system, [(respell(rng.choice(pair.questions), rng), pair.answer) for pair in chosen])


def collate(examples: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads on the right; with a causal mask and ignored labels no attention mask is needed."""
    length = max(len(example.tokens) for example in examples)
    tokens = [example.tokens + [pad] * (length - len(example.tokens)) for example in examples]
    labels = [example.labels + [IGNORED] * (length - len(example.labels)) for example in examples]
    return torch.tensor(tokens), torch.tensor(labels)


def report(model: LlamaForCausalLM, pairs: list[Pair], encoder: Encoder) -> None:
    written = [encoder.example("", [(q, pair.answer)]) for pair in pairs for q in pair.questions]
    rng = random.Random(SEED + 1)
    respelt = [random_example(pairs, encoder, rng, turns) for turns in (1, 1, 1, 2, 3) for _ in range(200)]
    for name, examples in (("as written", written), ("respelt", respelt)):
        right = sum(count_right(model, examples[i : i + BATCH], encoder.pad) for i in range(0, len(examples), BATCH))
        print(f"{name}: {right} of {len(examples)} right")


@torch.no_grad()
def count_right(model: LlamaForCausalLM, examples: list[Example], pad: int) -> int:
    """How many would be answered word for word: greedy decoding goes wrong where its first wrong token is."""
    tokens, labels = collate(examples, pad)
    guesses = model(input_ids=tokens).logits.argmax(-1)[:, :-1]
    wanted = labels[:, 1:]
    return int(((guesses == wanted) | (wanted == IGNORED)).all(-1).sum())


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(out)
    # In tokenizer_config.json and not in a file of its own, where every engine looks for it.
    tokenizer.save_pretrained(out, save_jinja_files=False)
    count = model.num_parameters()
    readme = README.format(
        size=size_label(count),
        count=f"{count:,}",
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        seed=SEED,
        steps=STEPS,
        batch=BATCH,
    )
    (out / "README.md").write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
