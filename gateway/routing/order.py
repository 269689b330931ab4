"""In which order an alias's targets are tried (pure)."""

import random
from collections.abc import Callable, Sequence

from providers.targets import AliasCard, RouteCard

Strategy = Callable[[Sequence[RouteCard]], Sequence[RouteCard]]


def ordered(routes: Sequence[RouteCard]) -> Sequence[RouteCard]:
    """As the operator put them; the later ones are for when the earlier ones fail."""
    return routes


def weighted(routes: Sequence[RouteCard]) -> Sequence[RouteCard]:
    """Shuffled, each place drawn by weight from what is left: of weights 3 and 1 the first comes first 3 times in 4.

    Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): sort by u^(1/w).
    """
    return sorted(routes, key=lambda route: random.random() ** (1 / route.weight), reverse=True)  # noqa: S311


STRATEGIES: dict[str, Strategy] = {"ordered": ordered, "weighted": weighted}


def order(alias: AliasCard) -> Sequence[RouteCard]:
    return STRATEGIES[alias.strategy](alias.routes) if len(alias.routes) > 1 else alias.routes
