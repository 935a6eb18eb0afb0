"""Trains the demo model from `text.yaml`: `python -m ray_serve_cai.demo.train [--out DIR]`.

Needs torch, transformers and tokenizers, and 60 to 90 s of two CPU cores. The same seed on
the same machine gives the same files.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ray_serve_cai.demo import model_dir
from ray_serve_cai.demo.spelling import respell, system_prompt
from ray_serve_cai.demo.text import Pair, load_text
from ray_serve_cai.demo.tokenizer import (
    IGNORED,
    MAX_LENGTH,
    Encoder,
    Example,
    build_tokenizer,
    save_tokenizer,
)

SEED = 7
STEPS = 550
BATCH = 64
LEARNING_RATE = 4e-3
MAX_ANSWER_TOKENS = 48

README = """---
pipeline_tag: text-generation
language: en
---
# demo model, {size} parameters

A LLaMA of {layers} layers and width {width} with a vocabulary of {vocabulary} tokens:
{count} parameters in bfloat16. It is trained on one page of text, `text.yaml` of the package
`ray_serve_cai.demo`, and answers those questions in many spellings. It knows nothing else and is
not for real use; it lets you try a cluster without a download, an account or a GPU.

Made by `python -m ray_serve_cai.demo.train` (seed {seed}, {steps} steps of {batch} questions,
on CPU) from random weights; no other model or data went into it.
"""


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
        max_position_embeddings=MAX_LENGTH,
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
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
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
    turns = rng.choice((1, 1, 1, 1, 2, 4))
    return [random_example(pairs, encoder, rng, turns) for _ in range(BATCH // turns)]


def random_example(pairs: list[Pair], encoder: Encoder, rng: random.Random, turns: int) -> Example:
    weights = [3 if pair.topics else 1 for pair in pairs]
    chosen = rng.choices(pairs, weights, k=turns)
    return encoder.example(system_prompt(rng), [random_turn(pair, rng) for pair in chosen])


def random_turn(pair: Pair, rng: random.Random) -> tuple[str, str]:
    question = rng.choice(pair.questions)
    if pair.topics and rng.random() < 0.6:
        question = rng.choice(pair.frames).format(rng.choice(pair.topics))
    return respell(question, rng), pair.answer


def collate(examples: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads on the right; with a causal mask and ignored labels no attention mask is needed."""
    length = max(len(example.tokens) for example in examples)
    tokens = [example.tokens + [pad] * (length - len(example.tokens)) for example in examples]
    labels = [example.labels + [IGNORED] * (length - len(example.labels)) for example in examples]
    return torch.tensor(tokens), torch.tensor(labels)


def report(model: LlamaForCausalLM, pairs: list[Pair], encoder: Encoder) -> None:
    written = [encoder.example("", [(q, pair.answer)]) for pair in pairs for q in pair.questions]
    rng = random.Random(SEED + 1)
    respelt = [
        random_example(pairs, encoder, rng, turns) for turns in (1, 1, 1, 2, 4) for _ in range(200)
    ]
    for name, examples in (("as written", written), ("respelt", respelt)):
        right = sum(
            count_right(model, examples[i : i + BATCH], encoder.pad)
            for i in range(0, len(examples), BATCH)
        )
        print(f"{name}: {right} of {len(examples)} right")


def count_right(model: LlamaForCausalLM, examples: list[Example], pad: int) -> int:
    """Answered word for word by greedy decoding, which goes wrong where its first token does."""
    tokens, labels = collate(examples, pad)
    with torch.no_grad():
        guesses = model(input_ids=tokens).logits.argmax(-1)[:, :-1]
    wanted = labels[:, 1:]
    return int(((guesses == wanted) | (wanted == IGNORED)).all(-1).sum())


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    config = model.config
    # Clients that name no temperature get nearly the likeliest tokens, so the text as written.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(
        0o644
    )  # written 0600; an installed package is read by others
    save_tokenizer(tokenizer, out)
    (out / "README.md").write_text(readme(model), encoding="utf-8")


def readme(model: LlamaForCausalLM) -> str:
    config = model.config
    count = model.num_parameters()
    return README.format(
        size=size_label(count),
        count=f"{count:,}",
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        seed=SEED,
        steps=STEPS,
        batch=BATCH,
    )


if __name__ == "__main__":
    main()
