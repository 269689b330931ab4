"""The rules of the house as functions over a source tree: each yields one sentence for each place that breaks it.

They read the code as a syntax tree and never import it, so that a rule also sees what stands in a function, in a branch
or under TYPE_CHECKING: an arrow for types only is an arrow.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Imports go from a room to those with a smaller number only.
ROOMS = {"providers": 0, "ledger": 1, "gateway": 2, "console": 2, "proxysite": 3}
OUTSIDE = ("bench", "tests")

# A file of gateway/ imports only from the files that stand before it here; a folder's files share its place.
GATEWAY_ORDER = (
    "models",
    "errors",
    "pouring",
    "spool",
    "routing",
    "parsing",
    "replies",
    "echo",
    "upstream",
    "process",
    "trials",
    "listing",
    "attempts",
    "bills",
    "receipts",
    "access",
    "bodies",
    "uploads",
    "metrics",
    "tracing",
    "capturing",
    "redislink",
    "limits",
    "spending",
    "wayfinding",
    "belongings",
    "outgoing",
    "caching",
    "admission",
    "explaining",
    "status",
    "forwarding",
    "delivery",
    "wrongkeys",
    "leaks",
    "errands",
    "pipeline",
    "endpoints",
    "api",
    "alerts",
    "pauses",
    "sqlthread",
    "observing",
    "credentials",
    "cors",
    "idempotency",
    "engine",
    "urls",
    "asgi",
    "checks",
    "apps",
    "management",
)

# What can be read, tested and timed without a database: no way leads from here to django.db or to gateway.
PURE = (
    *(f"providers.{name}" for name in ("targets", "secret", "ids", "keys", "vault", "quirks", "edits", "presets")),
    *(
        f"providers.{name}"
        for name in ("addresses", "aliases", "allowances", "callers", "ephemeral", "minting", "origins", "spans")
    ),
    "providers.dialects",
    "providers.predictions",
    *(f"ledger.{name}" for name in ("entries", "usage", "money", "prices", "builtin", "pricebook", "counting")),
    *("ledger.redaction", "ledger.payloads"),
)

FORBIDDEN_STEMS = frozenset({"utils", "util", "helpers", "helper", "common", "core", "services", "misc"})
HTTP_CLIENTS = frozenset({"httpx", "aiohttp"})
MAY_CALL_OUT = frozenset(
    f"gateway.{name}"
    for name in ("upstream.client", "upstream.transport", "upstream.wire", "echo.transport", "pouring")
)

DANGEROUS_MODULES = frozenset({"pickle", "marshal", "shelve", "dill", "subprocess", "pty", "commands"})
DANGEROUS_BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
DANGEROUS_CALLS = frozenset(
    {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
    | {f"os.{name}" for name in ("execv", "execve", "execvp", "execl", "execlp", "spawnl", "spawnv", "posix_spawn")}
    | {"asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"}
)

FILE_LINES, TEST_FILE_LINES, FUNCTION_LINES = 400, 600, 50


@dataclass(frozen=True)
class Module:
    """One Python file; `name` is its dotted name, a package's own for an `__init__.py`."""

    path: Path
    relative: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.relative))

    @property
    def name(self) -> str:
        parts = self.relative.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        return self.relative.parts[0]

    def place(self, node: ast.AST) -> str:
        return f"{self.relative}:{getattr(node, 'lineno', 1)}"


class Tree:
    """All Python files below a root that people write: the rooms, the benchmark, the tests; no migrations."""

    def __init__(self, root: Path) -> None:
        files = [file for top in (*ROOMS, *OUTSIDE) for file in sorted((root / top).rglob("*.py"))]
        found = [Module(file, file.relative_to(root)) for file in files if "migrations" not in file.parts]
        self.all = {module.name: module for module in found}
        self.rooms = {name: module for name, module in self.all.items() if module.room in ROOMS}

    def imports(self, module: Module) -> Iterator[tuple[ast.stmt, str]]:
        """Each import with the full name of what it brings: `from gateway import api` brings gateway.api."""
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield node, full if full in self.all or "." not in full or not self._ours(base) else base

    def _base(self, module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = module.relative.parent.parts[: len(module.relative.parent.parts) - node.level + 1]
        return ".".join([*here, *([node.module] if node.module else [])])

    @staticmethod
    def _ours(name: str) -> bool:
        return name.partition(".")[0] in (*ROOMS, *OUTSIDE)


def rooms_import_one_way(tree: Tree) -> Iterator[str]:
    for module in tree.rooms.values():
        for node, name in tree.imports(module):
            other = name.partition(".")[0]
            if other in OUTSIDE:
                yield f"{module.place(node)} imports {name}, which is not shipped"
            elif other in ROOMS and other != module.room and ROOMS[other] >= ROOMS[module.room]:
                yield f"{module.place(node)} imports {name}: {other} stands above {module.room}"


def gateway_imports_backwards_only(tree: Tree) -> Iterator[str]:
    for module in tree.rooms.values():
        if module.room != "gateway" or module.name == "gateway":
            continue
        own = module.name.split(".")[1]
        if own not in GATEWAY_ORDER:
            yield f"{module.relative} has no place in GATEWAY_ORDER"
            continue
        for node, name in tree.imports(module):
            parts = name.split(".")
            if parts[0] != "gateway" or len(parts) == 1 or parts[1] == own or parts[1] not in GATEWAY_ORDER:
                continue
            if GATEWAY_ORDER.index(parts[1]) > GATEWAY_ORDER.index(own):
                yield f"{module.place(node)} imports {name}, which stands behind {own}"


def pure_modules_stay_pure(tree: Tree) -> Iterator[str]:
    for module in tree.rooms.values():
        if not any(module.name == name or module.name.startswith(f"{name}.") for name in PURE):
            continue
        seen, open_ = {module.name}, [(module, module.name)]
        while open_:
            current, way = open_.pop()
            for _, name in tree.imports(current):
                if name.startswith(("django.db", "gateway")):
                    yield f"{module.relative} reaches {name} through {way}"
                elif name in tree.rooms and name not in seen:
                    seen.add(name)
                    open_.append((tree.rooms[name], f"{way} -> {name}"))


def files_and_functions_are_short(tree: Tree) -> Iterator[str]:
    for module in tree.all.values():
        cap = TEST_FILE_LINES if module.room == "tests" else FILE_LINES
        lines = len(module.text.splitlines())
        if lines > cap:
            yield f"{module.relative} has {lines} lines, more than {cap}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{module.place(node)} {node.name} has {length} lines, more than {FUNCTION_LINES}"


def names_say_what_is_inside(tree: Tree) -> Iterator[str]:
    for module in tree.all.values():
        for part in module.name.split("."):
            if part in FORBIDDEN_STEMS or part.startswith("base_"):
                yield f"{module.relative}: {part!r} says nothing about what is inside"


def modules_say_what_they_are(tree: Tree) -> Iterator[str]:
    """The name of a test file, with the sentences inside, says enough."""
    for module in tree.all.values():
        if module.room != "tests" and module.tree.body and not ast.get_docstring(module.tree):
            yield f"{module.relative} has no docstring"


def one_door_to_the_network(tree: Tree) -> Iterator[str]:
    for module in tree.rooms.values():
        for node, name in tree.imports(module):
            if name.partition(".")[0] in HTTP_CLIENTS and module.name not in MAY_CALL_OUT:
                yield f"{module.place(node)} imports {name}; only {' and '.join(sorted(MAY_CALL_OUT))} may"


def no_dialect_is_asked_for_by_name(tree: Tree) -> Iterator[str]:
    """A difference between providers is a method of a dialect or a quirk in a row, never an `if`.

    To ask whether a name is registered (`row.dialect in registry()`) names none.
    """
    folder = "providers.dialects."
    dialects = {name.removeprefix(folder) for name in tree.rooms if name.startswith(folder)}
    for module in tree.rooms.values():
        if module.name.startswith("providers.dialects"):
            continue
        for node in ast.walk(module.tree):
            compared: list[ast.AST] = []
            equality = False
            if isinstance(node, ast.Compare):
                compared = [node.left, *node.comparators]
                equality = any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
            elif isinstance(node, ast.MatchValue):
                compared = [node.value]
            for side in compared:
                named = {part.value for part in ast.walk(side) if isinstance(part, ast.Constant)} & dialects
                if named or (equality and isinstance(side, ast.Attribute) and side.attr == "dialect"):
                    yield f"{module.place(node)} compares a dialect: {ast.unparse(node)}"


def nothing_runs_data_as_code(tree: Tree) -> Iterator[str]:
    for module in tree.rooms.values():
        for node, name in tree.imports(module):
            if name.partition(".")[0] in DANGEROUS_MODULES or name in DANGEROUS_CALLS:
                yield f"{module.place(node)} imports {name}"
        for call in ast.walk(module.tree):
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func)
                if name in DANGEROUS_BUILTINS or name in DANGEROUS_CALLS:
                    yield f"{module.place(call)} calls {name}"


RULES = (
    rooms_import_one_way,
    gateway_imports_backwards_only,
    pure_modules_stay_pure,
    files_and_functions_are_short,
    names_say_what_is_inside,
    modules_say_what_they_are,
    one_door_to_the_network,
    no_dialect_is_asked_for_by_name,
    nothing_runs_data_as_code,
)
