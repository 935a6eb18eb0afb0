"""`cai schema`: JSON schema of the specs, for editors."""

from __future__ import annotations

from enum import StrEnum
from json import dumps
from typing import Annotated

import typer


class Kind(StrEnum):
    """The kinds of spec that have a schema."""

    cluster = "cluster"
    model = "model"


def schema(
    kind: Annotated[Kind, typer.Argument(help="The kind of spec.", show_default=False)],
) -> None:
    """Print the JSON schema of a cluster or model spec.

    Editors use it when a file begins with a line such as
    "# yaml-language-server: $schema=cluster.schema.json".
    """
    from ray_serve_cai.spec import json_schema

    print(dumps(json_schema(kind.value), indent=2))
