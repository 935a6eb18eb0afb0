"""Other ways to write the same question, so that the demo model is not thrown by a missing mark."""

import random

_BEFORE = ("please ", "Hi, ", "Hello, ", "Can you tell me: ", "Could you tell me, ", "Tell me, ", "So, ", "OK, ", "And ")
_AFTER = (" please", ", please", " thanks", " Thank you", " now", " exactly")
_MARKS = ("", "", "?", "?", ".", "!", "??", " ?", "...")
_SWAPS = (
    ("What is", "What's"),
    ("what is", "whats"),
    ("How do I", "How can I"),
    ("How do I", "How do you"),
    ("How do I", "How to"),
    ("How do I", "How does one"),
    ("How do I", "How should I"),
    ("the ", "a "),
    ("the ", ""),
    (" a ", " the "),
    (" a ", " "),
    ("do I", "can I"),
)


def respell(question: str, rng: random.Random) -> str:
    """One random spelling; about one in five comes back as it is written in the page."""
    if rng.random() < 0.2:
        return question
    text = _reword(question, rng).rstrip("?.! ")
    text = _surround(text, rng)
    if rng.random() < 0.25:
        text = _typo(text, rng)
    return _space(_case(text, rng), rng) + rng.choice(_MARKS)


def _reword(text: str, rng: random.Random) -> str:
    if rng.random() < 0.6:
        return text
    old, new = rng.choice(_SWAPS)
    return text.replace(old, new, 1)


def _surround(text: str, rng: random.Random) -> str:
    if rng.random() < 0.12:
        text = rng.choice(_BEFORE) + text[:1].lower() + text[1:]
    if rng.random() < 0.08:
        text += rng.choice(_AFTER)
    return text


def _typo(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def _case(text: str, rng: random.Random) -> str:
    way = rng.random()
    if way < 0.40:
        return text.lower()
    if way < 0.50:
        return text.upper()
    if way < 0.58:
        return text.title()
    return text


def _space(text: str, rng: random.Random) -> str:
    if rng.random() > 0.12:
        return text
    words = text.split(" ")
    at = rng.randrange(len(words))
    return " ".join([*words[:at], " " * rng.randrange(3) + words[at], *words[at + 1 :]])
