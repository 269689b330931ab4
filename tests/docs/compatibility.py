"""What works with what, each line with the tests that show it: docs/compatibility.md is made of this.

python -m tests.docs.compatibility        # writes the page anew
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- made by tests/docs/compatibility.py -->", "<!-- to here -->"


@dataclass(frozen=True)
class Line:
    """`tests` are files below tests/, with `::` and the beginning of a test's name where not all of it is meant."""

    subject: str
    what: str
    tests: tuple[str, ...]


CLIENTS = (
    Line("OpenAI for Python", "sync and async, every operation that it has", ("clients/test_openai_suite.py",)),
    Line(
        "OpenAI for Python",
        "chat, streams, errors and retries",
        ("clients/test_openai_python.py", "clients/test_openai_python_errors.py"),
    ),
    Line("OpenAI for TypeScript 6 and 7", "chat, streams, embeddings, errors", ("clients/test_openai_node.py",)),
    Line("OpenAI for TypeScript 7", "uploads and downloads", ("clients/test_files_node.py",)),
    Line("Azure's client of OpenAI for Python", "deployments, and the v1 form", ("gateway/test_azure_clients.py",)),
    Line(
        "Vercel's AI SDK (openai-compatible)",
        "streams, tools, reasoning, usage, errors and vectors of providers with their own ways",
        ("clients/test_other_libraries.py::test_case_15_and_16_the_ai_sdk", "gateway/test_stream_rows.py"),
    ),
    Line(
        "LangChain for Python",
        "streams, tools, usage counted once, errors and vectors of such providers",
        ("clients/test_other_libraries.py::test_case_15_and_16_langchain",),
    ),
    Line("Anthropic for Python", "messages, streams, token counts, models, errors", ("gateway/test_messages.py",)),
    Line(
        "curl",
        "without a content type; every spelling of the base URL",
        ("gateway/test_way_of_a_request.py::test_case_09", "gateway/test_way_of_a_request.py::test_every_spelling"),
    ),
)
ENDPOINTS = (
    Line(
        "`/v1/chat/completions`, `/v1/completions`",
        "whole and streamed; what clients trip over is mended",
        ("gateway/test_way_of_a_request.py", "gateway/test_chat_relay.py"),
    ),
    Line(
        "`/v1/embeddings`",
        "floats and base64, whatever the provider gives",
        ("clients/test_openai_python.py::test_case_40",),
    ),
    Line(
        "`/v1/responses`",
        "whole and streamed byte for byte; `compact`, `input_tokens`; by id: get, stream again, cancel, delete, items",
        ("gateway/test_responses.py",),
    ),
    Line("`/v1/messages`, `count_tokens`", "at providers that have Anthropic's API", ("gateway/test_messages.py",)),
    Line(
        "`/v1/models`",
        "made here, in OpenAI's and in Anthropic's shape",
        (
            "gateway/test_way_of_a_request.py::test_case_07",
            "gateway/test_way_of_a_request.py::test_case_08",
            "gateway/test_messages.py::test_the_models_have",
        ),
    ),
    Line("`/v1/moderations`", "with and without a model", ("gateway/test_known_ids.py::test_case_44",)),
    Line(
        "`/v1/images`",
        "whole, and partial images as a stream",
        (
            "gateway/test_other_operations.py::test_usage_in_a_plain",
            "gateway/test_other_operations.py::test_a_plain_stream",
        ),
    ),
    Line(
        "`/v1/audio`, `/v1/files`, `/v1/uploads`",
        "streamed through in both directions",
        ("clients/test_files_python.py",),
    ),
    Line(
        "`/v1/files`, `/v1/batches`, `/v1/responses` by id",
        "at the provider that made them, for the key that made them",
        ("gateway/test_known_ids.py",),
    ),
    Line(
        "everything else under `/v1`",
        "fine-tuning, vector stores, conversations, containers, evals and what is not known yet: all as it is",
        ("gateway/test_other_operations.py", "clients/test_openai_suite.py", "gateway/test_specification.py"),
    ),
    Line(
        "WebSockets (`/v1/realtime`, `/v1/responses`)",
        "refused with 426, which names what to use instead",
        ("gateway/test_websockets.py",),
    ),
)


def page() -> str:
    """The part of the page that is made."""
    tables = (("Clients", "client", "what is tried", CLIENTS), ("Endpoints", "endpoint", "what works", ENDPOINTS))
    parts = []
    for title, first, second, lines in tables:
        rows = [f"| {line.subject} | {line.what} | {_shown(line)} |" for line in lines]
        parts.append("\n".join([f"## {title}", "", f"| {first} | {second} | shown by |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def missing() -> Iterator[str]:
    """The tests that are named and are not there."""
    for line in (*CLIENTS, *ENDPOINTS):
        for name in line.tests:
            file, _, beginning = name.partition("::")
            path = ROOT / "tests" / file
            if not path.exists() or not any(test.startswith(beginning) for test in _tests(path)):
                yield name


def _tests(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [function.name for function in functions if function.name.startswith("test_")]


def _shown(line: Line) -> str:
    files = dict.fromkeys(name.partition("::")[0] for name in line.tests)
    return ", ".join(f"[{Path(file).stem}](../tests/{file})" for file in files)


def with_tables(text: str) -> str:
    """The page with its tables as they are to be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{page()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
