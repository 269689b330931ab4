"""A scripted provider and, in processes of their own, the servers in front of it; all of them last for the run.

Every test here runs in the session's loop (`pytest.mark.asyncio(loop_scope="session")`), where the provider lives.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.clients.sdk import Sdk
from tests.clients.served import CONFIGURATION, SERVERS, Gateway, Servers
from tests.proxysite.test_server import free_port
from tests.scripted import ScriptedUpstream, json_answer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lab() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers(lab: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        text = CONFIGURATION.format(lab=lab.url, nobody=free_port())
        yield Servers(tmp_path_factory.mktemp("served"), stack, text)


@pytest_asyncio.fixture(loop_scope="session")
async def scripted(lab: ScriptedUpstream) -> ScriptedUpstream:
    """The provider without anything that an earlier test left."""
    lab.queue.clear()
    lab.requests.clear()
    lab.default = json_answer({})
    return lab


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(servers: Servers) -> Gateway:
    """Under uvicorn: for tests in which the server makes no difference."""
    return await servers.get("uvicorn")


@pytest_asyncio.fixture(loop_scope="session", params=sorted(SERVERS))
async def served(servers: Servers, request: pytest.FixtureRequest) -> Gateway:
    """Under each of the servers that people start."""
    return await servers.get(request.param)


@pytest_asyncio.fixture(loop_scope="session", params=["sync", "async"])
async def sdk(gateway: Gateway, request: pytest.FixtureRequest) -> AsyncIterator[Sdk]:
    if request.param == "sync":
        with gateway.sync_client() as client:
            yield Sdk(client, blocking=True)
    else:
        async with gateway.client() as client:
            yield Sdk(client, blocking=False)
