"""The seam behind the "Test upstream" button: the admin asks here, the room that can call upstreams answers."""

from collections.abc import Callable

import msgspec

from providers.targets import CredentialCard, ProviderCard


class ProbeResult(msgspec.Struct, frozen=True):
    """What one cheap call gave: the upstream's status (0 for none), its own words with the key masked, and the time."""

    ok: bool
    status: int
    text: str
    milliseconds: int


Prober = Callable[[ProviderCard, CredentialCard | None], ProbeResult]
_registered: list[Prober] = []


def register(prober: Prober) -> None:
    """Set who probes from now on; called once, when the applications are ready."""
    _registered[:] = [prober]


def probe(card: ProviderCard) -> ProbeResult:
    """Call the provider with its first credential; blocks for as long as the prober does."""
    if not _registered:
        return ProbeResult(False, 0, "This process cannot call upstreams.", 0)
    return _registered[0](card, card.credentials[0] if card.credentials else None)
