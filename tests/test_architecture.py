"""The code keeps the rules of the house; and each rule, shown a tree that breaks it, says so."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxysite.env import BASE_DIR
from tests import architecture
from tests.architecture import RULES, Tree

Rule = Callable[[Tree], Iterator[str]]

SOUND = {
    "providers/targets.py": '"""Values."""\nimport dataclasses\n',
    "providers/dialects/__init__.py": '"""Dialects."""\nfrom providers.dialects import azure\n',
    "providers/dialects/azure.py": '"""Azure."""\nname = "azure"\nassert name == "azure"\n',
    "providers/models.py": '"""Rows."""\nfrom django.db import models\nfrom providers import dialects\n',
    "ledger/usage.py": '"""Usage."""\nfrom providers.targets import Target\n',
    "gateway/__init__.py": "",
    "gateway/errors.py": '"""Errors."""\n',
    "gateway/upstream/client.py": '"""Calls out."""\nimport httpx\nfrom gateway.errors import GatewayError\n',
    "gateway/endpoints/chat.py": '"""Chat."""\nfrom gateway.endpoints import describe\nfrom gateway import pipeline\n',
    "gateway/endpoints/describe.py": '"""Words."""\nimport yaml\nyaml.safe_load("1")\n',
    "gateway/pipeline.py": '"""The way."""\nfrom ledger import usage\nfrom gateway import upstream\n',
    "proxysite/asgi.py": '"""The building."""\nfrom gateway.pipeline import handle\n',
}

LONG_FUNCTION = '"""Long."""\ndef f():\n' + "    x = 1\n" * 50
BREACHES = [
    ("rooms_import_one_way", "ledger/a.py", "import gateway.errors"),
    ("rooms_import_one_way", "providers/a.py", "def f():\n    from ledger.usage import Usage"),
    ("rooms_import_one_way", "providers/a.py", "from ..ledger import usage"),
    ("rooms_import_one_way", "gateway/errors.py", "from console import pages"),
    ("rooms_import_one_way", "console/a.py", "from gateway import engine"),
    ("rooms_import_one_way", "ledger/a.py", "from console.sums import total"),
    ("rooms_import_one_way", "proxysite/a.py", "from tests import scripted"),
    ("gateway_imports_backwards_only", "gateway/errors.py", "from gateway import pipeline"),
    ("gateway_imports_backwards_only", "gateway/pipeline.py", "from gateway.endpoints.chat import reply"),
    ("gateway_imports_backwards_only", "gateway/errors.py", "if TYPE_CHECKING:\n    from .upstream import Upstream"),
    ("gateway_imports_backwards_only", "gateway/newcomer.py", "x = 1"),
    ("pure_modules_stay_pure", "providers/targets.py", "from django.db.models import Model"),
    ("pure_modules_stay_pure", "providers/dialects/azure.py", "from providers import models"),
    ("pure_modules_stay_pure", "ledger/usage.py", "import gateway.errors"),
    ("files_and_functions_are_short", "ledger/a.py", "x = 1\n" * 400),
    ("files_and_functions_are_short", "tests/a.py", "x = 1\n" * 600),
    ("files_and_functions_are_short", "tests/a.py", LONG_FUNCTION),
    ("files_and_functions_are_short", "bench/a.py", LONG_FUNCTION.replace("def", "async def")),
    ("names_say_what_is_inside", "gateway/utils.py", "x = 1"),
    ("names_say_what_is_inside", "ledger/services/a.py", "x = 1"),
    ("names_say_what_is_inside", "tests/base_case.py", "x = 1"),
    ("one_door_to_the_network", "gateway/pipeline.py", "import aiohttp.web"),
    ("one_door_to_the_network", "providers/targets.py", "def f():\n    from httpx import URL"),
    ("no_dialect_is_asked_for_by_name", "gateway/pipeline.py", 'x = provider == "azure"'),
    ("no_dialect_is_asked_for_by_name", "gateway/pipeline.py", 'x = name in ("azure", "other")'),
    ("no_dialect_is_asked_for_by_name", "gateway/pipeline.py", "x = provider.dialect != other"),
    ("no_dialect_is_asked_for_by_name", "providers/models.py", 'match name:\n    case "azure":\n        pass'),
    ("nothing_runs_data_as_code", "ledger/usage.py", "import pickle"),
    ("nothing_runs_data_as_code", "ledger/usage.py", "from subprocess import run"),
    ("nothing_runs_data_as_code", "ledger/usage.py", "from os import system"),
    ("nothing_runs_data_as_code", "providers/models.py", "x = yaml.load(text, Loader=Loader)"),
    ("nothing_runs_data_as_code", "providers/models.py", "def f():\n    return eval(text)"),
    ("nothing_runs_data_as_code", "gateway/errors.py", "os.system(text)"),
]


def written(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(root)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(Tree(BASE_DIR))) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_tree_breaks_no_rule(tmp_path: Path, rule: Rule) -> None:
    assert list(rule(written(tmp_path, SOUND))) == []


@pytest.mark.parametrize(("rule", "file", "text"), BREACHES, ids=lambda value: str(value)[:40])
def test_a_breach_is_found_where_it_stands(tmp_path: Path, rule: str, file: str, text: str) -> None:
    tree = written(tmp_path, SOUND | {file: f'"""Breach."""\n{text}\n'})
    assert any(file in line for line in getattr(architecture, rule)(tree))


def test_a_module_without_a_docstring_is_found(tmp_path: Path) -> None:
    tree = written(tmp_path, SOUND | {"ledger/a.py": "x = 1\n"})
    assert list(architecture.modules_say_what_they_are(tree)) == ["ledger/a.py has no docstring"]


def test_every_rule_has_a_breach_that_it_finds() -> None:
    shown = {rule for rule, _, _ in BREACHES} | {"modules_say_what_they_are"}
    assert shown == {rule.__name__ for rule in RULES}


def test_every_pure_module_exists() -> None:
    tree = Tree(BASE_DIR)
    assert [name for name in architecture.PURE if name not in tree.rooms] == []
