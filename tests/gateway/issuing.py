"""An issuer of tokens on a socket: its keys can be changed, kept back, or made too many."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from providers.models import Issuer
from tests.scripted import Received, ScriptedUpstream, json_answer

AUDIENCE = "our-app"


@cache
def rsa_key(number: int, bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class TestIssuer:
    """`keys` are what it signs with, by their ids."""

    __test__ = False
    server: ScriptedUpstream
    keys: dict[str, PrivateKeyTypes] = field(default_factory=lambda: {"k1": rsa_key(1)})

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def calls(self) -> int:
        return len(self.server.requests)

    def jwks(self) -> dict[str, Any]:
        found = []
        for name, key in self.keys.items():
            algorithm = jwt.get_algorithm_by_name("RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
            entry = algorithm.to_jwk(key.public_key(), as_dict=True)
            found.append({**entry, "kid": name, "use": "sig"})
        return {"keys": found}

    def answer(self, received: Received) -> Any:
        return json_answer(self.jwks())

    def token(
        self, *, kid: str = "k1", key: Any = None, headers: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        signer: Any = self.keys[kid] if key is None else key
        algorithm = claims.pop("algorithm", "RS256" if isinstance(signer, rsa.RSAPrivateKey) else "ES256")
        now = int(time.time())
        body = {"iss": self.url, "aud": AUDIENCE, "sub": "anna", "iat": now, "exp": now + 300, **claims}
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, signer, algorithm=algorithm, headers={"kid": kid, **(headers or {})})

    def row(self, **fields: Any) -> Issuer:
        values = {"name": "app", "issuer": self.url, "audience": AUDIENCE, "jwks_url": f"{self.url}/jwks.json"}
        made = Issuer(**{**values, **fields})
        made.full_clean()
        made.save()
        return made


@asynccontextmanager
async def issuing() -> AsyncIterator[TestIssuer]:
    async with ScriptedUpstream() as server:
        issuer = TestIssuer(server)
        server.default = issuer.answer
        yield issuer
