"""OpenAI's specification, its paths as this gateway and its providers have them."""

import gzip
import json
from pathlib import Path
from typing import Any

PACKED = Path(__file__).with_name("openapi.json.gz")


def read() -> dict[str, Any]:
    """The document, each path below `/v1`."""
    found: dict[str, Any] = json.loads(gzip.decompress(PACKED.read_bytes()))
    return {**found, "paths": {f"/v1{path}": operations for path, operations in found["paths"].items()}}


def write(folder: Path) -> Path:
    """The same as a file in that folder."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(read()))
    return file
