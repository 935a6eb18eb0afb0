import random

from ray_serve_cai.demo.spelling import respell, system_prompt


def test_the_same_seed_gives_the_same_spellings() -> None:
    def spellings() -> list[str]:
        rng = random.Random(3)
        return [respell("What is cai?", rng) for _ in range(50)]

    assert spellings() == spellings()


def test_spellings_vary_and_are_never_empty() -> None:
    rng = random.Random(3)
    spellings = {respell("Hi", rng) for _ in range(500)}
    assert {"Hi", "hi", "HI", "hi?"} <= spellings
    assert all(spelling.strip() for spelling in spellings)


def test_most_conversations_have_no_system_prompt() -> None:
    rng = random.Random(3)
    prompts = [system_prompt(rng) for _ in range(500)]
    assert 300 < prompts.count("") < 400
    assert "You are a helpful assistant." in prompts
