"""Whom a credential stands for, and what every kind of credential can do."""

from typing import NamedTuple, Protocol

from providers.keyring import Verdict
from providers.targets import KeyCard


class Identity(NamedTuple):
    """`key` pays and says what may be done; its card is as narrow as the credential."""

    key: KeyCard
    end_user: str = ""  # whom the credential itself names; nothing that the call says takes its place
    origins: tuple[str, ...] | None = None  # of the pages that it works in, and nowhere else; None: not bound to pages
    issued_at: float = 0.0  # unix seconds, of a token that was made for one end user; 0: it is no such token


class Kind(Protocol):
    """One kind of credential. `for_pages`: a page may be told what the answer to it is, even to a wrong one."""

    for_pages: bool

    def find(self, token: str) -> Identity | Verdict:
        """From memory alone: UNKNOWN for nobody's, MISSING where `learn` has to look further."""
        ...

    async def learn(self, token: str) -> Identity | None:
        """Look the token up, and remember what came of it; None for nobody's."""
        ...

    def used(self, token: str, identity: Identity) -> None:
        """The call is let in; what is to be done beside it is begun here, and not waited for."""
        ...
