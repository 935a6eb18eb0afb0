import json
import math
import struct
from typing import Any

import pytest

from ray_serve_cai.demo import model_dir
from ray_serve_cai.demo.text import Pair, load_text

MIB = 2**20
WORDS_OF_AN_ANSWER = range(8, 36)


def read_json(name: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((model_dir() / name).read_text(encoding="utf-8"))
    return loaded


def tensors() -> dict[str, Any]:
    """The header of a safetensors file: eight bytes of length, then JSON."""
    with (model_dir() / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def parameters() -> int:
    return sum(math.prod(tensor["shape"]) for tensor in tensors().values())


@pytest.fixture(scope="module")
def page() -> list[Pair]:
    return load_text()


def test_the_folder_is_whole_and_small() -> None:
    files = {path.name: path.stat().st_size for path in model_dir().iterdir()}
    assert set(files) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) < 2 * MIB


def test_label_and_answer_say_how_many_parameters_there_are(page: list[Pair]) -> None:
    label = f"{parameters() / 1e6:.2f} M parameters"
    readme = (model_dir() / "README.md").read_text(encoding="utf-8")
    assert f"# demo model, {label}\n" in readme
    assert f"{parameters():,} parameters" in readme
    (about_itself,) = [pair for pair in page if "Who are you?" in pair.questions]
    assert label in about_itself.answer
    assert parameters() < 600_000


def test_weights_are_bfloat16_and_of_the_vocabulary() -> None:
    assert {tensor["dtype"] for tensor in tensors().values()} == {"BF16"}
    config = read_json("config.json")
    assert config["tie_word_embeddings"] is True
    assert tensors()["model.embed_tokens.weight"]["shape"][0] == config["vocab_size"]


def test_answers_end_with_the_token_that_ends_generation() -> None:
    tokenizer = read_json("tokenizer.json")
    added = tokenizer["added_tokens"]
    assert isinstance(added, list)
    ids = {token["content"]: token["id"] for token in added}
    assert read_json("generation_config.json")["eos_token_id"] == ids["<eos>"]
    assert read_json("tokenizer_config.json")["eos_token"] == "<eos>"


def test_chat_template_marks_every_role_and_ends_with_the_assistant() -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Template(str(read_json("tokenizer_config.json")["chat_template"]))
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hello \n"},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "42"},
    ]
    text = template.render(
        messages=conversation, add_generation_prompt=True, bos_token="[", eos_token="]"
    )
    assert text == "[<|system|>Be brief.]<|user|>Hello]<|assistant|>]<|user|>42]<|assistant|>"


def test_the_tokenizer_class_is_one_that_older_transformers_know() -> None:
    assert read_json("tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_no_question_has_two_answers(page: list[Pair]) -> None:
    questions = [question for pair in page for question in pair.questions]
    assert len(questions) == len({question.lower() for question in questions})
    assert len({pair.answer for pair in page}) == len(page)


def test_answers_are_short(page: list[Pair]) -> None:
    for pair in page:
        assert len(pair.answer.split()) in WORDS_OF_AN_ANSWER, pair.answer
        assert len(pair.questions) >= 6, pair.answer


def test_one_answer_is_for_everything_else(page: list[Pair]) -> None:
    (fallback,) = [pair for pair in page if pair.topics]
    assert fallback.answer.startswith("I do not know")
    assert all("{}" in frame for frame in fallback.frames)
