"""The examples run: pages in a real browser with the official SDK, their server, the program for the command line."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.clients import node
from tests.gateway import golden, house
from tests.proxysite.test_server import free_port
from tests.scripted import ScriptedUpstream, sse

EXAMPLES = Path(__file__).parents[2] / "examples"
RPM = 60

pytestmark = [pytest.mark.browser, pytest.mark.node, pytest.mark.slow]


@asynccontextmanager
async def running(*command: str, **values: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, env=node.environment(**values), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        assert b"listening" in await asyncio.wait_for(process.stdout.readline(), 20)
        yield process
    finally:
        process.kill()
        await process.wait()


class World:
    """A gateway, and the examples' server at the origin that its keys name and at another one."""

    def __init__(self, door: house.Door, ports: tuple[int, int], publishable: str) -> None:
        self.door, self.publishable = door, publishable
        self.own, self.foreign = (f"http://localhost:{port}" for port in ports)


@pytest.fixture
async def world(transactional_db: None, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    ports = free_port(), free_port()
    made: dict[str, str] = {}
    folder = await asyncio.to_thread(node.installed, request.config.cache, "node7")
    origin = f"http://localhost:{ports[0]}"

    def configure() -> str:
        lab = house.provider("lab", f"http://127.0.0.1:{upstream.port}/v1")
        house.alias("fast", (lab, "gpt-4o"))
        bounds: dict[str, Any] = {"endpoints": ["chat.completions"], "max_tokens": 50, "address_rpm": RPM}
        made["pk"] = house.client_key("page", kind="publishable", aliases=["fast"], origins=[origin], **bounds)[1]
        return house.client_key("server", aliases=["fast"], origins=[origin])[1]

    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        upstream.default = sse(*golden.chunks("one ", "two ", "three"), gap=0.05)
        door = await stack.enter_async_context(house.open_house(configure, tmp_path))
        for port in ports:
            values = {
                "PORT": str(port),
                "OPENAI_BASE_URL": door.url,
                "PUBLISHABLE_KEY": made["pk"],
                "OPENAI_API_KEY": door.key,
                "MODEL": "fast",
                "SDK_DIR": str(folder / "node_modules" / "openai"),
                "ORIGIN": f"http://localhost:{port}" if port == ports[0] else origin,
            }
            await stack.enter_async_context(running("node", str(EXAMPLES / "server.mjs"), **values))
        yield World(door, ports, made["pk"])


@pytest.fixture
async def page(chromium: str) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield await browser.new_page()
        await browser.close()


async def ask(page: Page, url: str) -> None:
    await page.goto(url)
    await page.wait_for_load_state("networkidle")
    await page.get_by_role("button").click()


async def test_a_page_of_the_keys_origin_streams_with_the_official_sdk(world: World, page: Page) -> None:
    await ask(page, world.own)
    answer = page.locator("#answer")
    await expect(answer).to_have_attribute("data-done", "yes", timeout=10_000)
    await expect(answer).to_have_text("one two three")
    # The SDK may read the id of the request, which is no header that a page sees by itself.
    assert str(await answer.get_attribute("data-request")).startswith("req_")


async def test_the_same_page_at_another_origin_gets_nothing(world: World, page: Page) -> None:
    before = len(await world.door.rows(0))
    await ask(page, world.foreign)
    await expect(page.locator("#problem")).to_contain_text("Connection error", timeout=10_000)
    await expect(page.locator("#answer")).to_have_text("")
    assert len(await world.door.rows(1, within=0.5)) == before


async def test_a_script_with_the_stolen_key_gets_the_limit_of_its_address_and_no_more(world: World) -> None:
    headers = {"authorization": f"Bearer {world.publishable}", "origin": world.own}
    async with httpx.AsyncClient(base_url=world.door.url, headers=headers, trust_env=False, timeout=20) as http:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found: list[int] = []
        while loop.time() - began < 4:
            body = {"model": "fast", "messages": [], "stream": True, "user": f"invented-{len(found)}"}
            found.append((await http.post("/chat/completions", json=body)).status_code)
        seconds = loop.time() - began
        bare = await http.post("/chat/completions", json=body, headers={"origin": ""})
    # A tenth of a minute's at a stroke, and one a second.
    passed = found.count(200)
    sys.stdout.write(f"{passed} of {len(found)} calls in {seconds:.1f} s passed under {RPM} a minute\n")
    assert RPM / 10 <= passed <= RPM / 10 + seconds * RPM / 60 + 1
    assert set(found) == {200, 429}
    assert bare.status_code == 403


async def test_a_page_for_people_who_have_signed_in_works_with_its_servers_tokens(world: World, page: Page) -> None:
    await ask(page, f"{world.own}/signed-in")
    await expect(page.locator("#problem")).to_have_text("no token: 401")
    await page.context.add_cookies([{"name": "user", "value": "anna", "url": world.own}])
    await page.get_by_role("button").click()
    await expect(page.locator("#answer")).to_have_attribute("data-done", "yes", timeout=10_000)
    await expect(page.locator("#answer")).to_have_text("one two three")
    assert [row.end_user for row in await world.door.rows(1)] == ["anna"]
    assert "sk-gw-" not in await page.content()


async def test_the_program_for_the_command_line(world: World) -> None:
    for key, code, said in ((world.door.key, 0, "one two three\n"), ("sk-gw-junk", 1, "401 invalid_api_key")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(EXAMPLES / "chat.py"), "Hello", "--model", "fast"),
            env=node.environment(OPENAI_BASE_URL=world.door.url, OPENAI_API_KEY=key),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, said in (out + err).decode()) == (code, True), err
