"""Other ways to write a question, so that a missing mark does not throw the demo model."""

import random

_BEFORE = ("please ", "Hi, ", "Hello, ", "Can you tell me: ", "Tell me, ", "So, ", "OK, ", "And ")
_AFTER = (" please", ", please", " thanks", " Thank you", " now", " exactly", " in cai", " here")
_MARKS = ("", "", "?", "?", ".", "!", "??", " ?", "...")
_SWAPS = (
    ("What is", "What's"),
    ("What is", "whats"),
    ("What is", "what exactly is"),
    ("What is a ", "Define "),
    ("What is ", ""),
    ("What are ", ""),
    ("How do I", "How can I"),
    ("How do I", "How do you"),
    ("How do I", "How to"),
    ("How do I", "How does one"),
    ("How do I", "How should I"),
    ("How do I", "I want to"),
    ("How do I ", ""),
    ("Where are the ", ""),
    ("the ", "a "),
    ("the ", ""),
    ("the ", "my "),
    (" a ", " the "),
    (" a ", " my "),
    (" a ", " "),
    ("do I", "can I"),
)
_SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful, honest and harmless assistant.",
    "You are an AI assistant.",
    "You are an expert for Ray and Kubernetes.",
    "You work for a bank.",
    "You help people with their cluster.",
    "You answer questions about cai.",
    "Be brief.",
    "Keep it short.",
    "Answer in one sentence.",
    "Answer the user's questions as well as you can.",
    "Think before you answer.",
    "Speak like a pirate.",
    "Use simple words.",
    "If you do not know the answer, say so.",
    "Never mention the weather.",
    "Today is Monday.",
    "The user is an engineer.",
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


def system_prompt(rng: random.Random) -> str:
    """Empty, the usual one, mixed words or sentences: the model is to look past any."""
    way = rng.random()
    if way < 0.7:
        return ""
    if way < 0.8:
        return _SYSTEM[0]
    if way < 0.9:
        words = " ".join(_SYSTEM).split()
        return " ".join(rng.sample(words, rng.randint(3, 20)))
    return " ".join(rng.sample(_SYSTEM, rng.randint(1, 3)))


def _reword(text: str, rng: random.Random) -> str:
    fitting = [swap for swap in _SWAPS if swap[0] in text]
    if not fitting or rng.random() < 0.6:
        return text
    old, new = rng.choice(fitting)
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
    if way < 0.38:
        return text.lower()
    if way < 0.53:
        return text.upper()
    if way < 0.60:
        return text.title()
    return text


def _space(text: str, rng: random.Random) -> str:
    if rng.random() > 0.12:
        return text
    words = text.split(" ")
    at = rng.randrange(len(words))
    return " ".join([*words[:at], " " * rng.randrange(3) + words[at], *words[at + 1 :]])
