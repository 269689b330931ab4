"""YAML as plain values, a name given twice a fault (pure)."""

from collections.abc import Hashable
from typing import Any

import yaml


class NotYaml(Exception):
    """The text cannot be read; the message says where."""


class _Loader(yaml.SafeLoader):
    """YAML without objects, in which a name given twice is a fault: the first of the two would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load(text: str) -> Any:
    """The one value that the text holds. Raises NotYaml."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise NotYaml(f"{where}{error.problem or 'this is no YAML'}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise NotYaml(f"This is no YAML that can be read ({type(error).__name__}).") from None
