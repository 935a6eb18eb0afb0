"""Writes the options of the installed SGLang where the stand-in keeps them.

    python tests/fakes/record_sglang.py

SGLang need not run for that: its parser imports without a GPU (seen with 0.5.23).
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).parent / "sglang_package" / "sglang" / "srt" / "server_args.py"


def kind_of(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):
        return "SWITCHES"
    if action.nargs == 0:
        return "FLAGS"
    return "LISTS" if action.nargs in ("+", "*") else "VALUES"


def options() -> dict[str, list[str]]:
    """The real parser's options by what they take."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    found: dict[str, list[str]] = {"FLAGS": [], "SWITCHES": [], "LISTS": [], "VALUES": []}
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                found[kind_of(action)].append(option)
    return found


def main() -> None:
    lines = [f'"""The options of sglang {version("sglang")}, as its own parser has them."""', ""]
    for kind, names in options().items():
        lines += [f"{kind} = (", *(f'    "{name}",' for name in sorted(names)), ")"]
    HOME.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
