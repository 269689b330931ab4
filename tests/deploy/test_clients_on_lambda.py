"""What people use in front of the function: OpenAI's two packages, and a browser in the admin."""

import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest
import trustme
from playwright.async_api import async_playwright, expect

from tests.canaries import PROMPT
from tests.clients import node
from tests.deploy.bridge import Bridge
from tests.deploy.functions import House, open_house
from tests.gateway import golden
from tests.scripted import Received, Script, ScriptedUpstream, json_answer, sse

pytestmark = pytest.mark.slow
MESSAGES = [{"role": "user", "content": PROMPT}]


def provider(received: Received) -> Script:
    if received.json().get("stream"):
        return sse(*golden.chunks("one", "two", "three", usage=False), gap=0.1)
    return json_answer(golden.COMPLETION)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedUpstream() as upstream:
        upstream.default = provider
        async with open_house(tmp_path, upstream.port) as opened:
            yield opened


async def test_the_openai_package_for_python_streams(house: House) -> None:
    async with (
        Bridge(house.emulator) as bridge,
        openai.AsyncOpenAI(base_url=f"{bridge.url}/v1", api_key=house.site.key) as client,
    ):
        times, text = [], ""
        async for part in await client.chat.completions.create(model="fast", messages=MESSAGES, stream=True):  # type: ignore[arg-type,union-attr]
            times.append(time.monotonic())
            text += part.choices[0].delta.content or "" if part.choices else ""
        assert text == "onetwothree"
        assert times[-1] - times[0] > 0.25
        whole = await client.chat.completions.create(model="fast", messages=MESSAGES)  # type: ignore[arg-type]
        assert whole.choices[0].message.content == golden.COMPLETION["choices"][0]["message"]["content"]
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="nobody").models.list()


@pytest.mark.node
async def test_the_openai_package_for_node_streams(house: House, request: pytest.FixtureRequest) -> None:
    cache = request.config.cache
    assert cache is not None
    folder = node.installed(cache, "node7")
    async with Bridge(house.emulator) as bridge:
        said = json.loads(
            await node.run(
                folder,
                "../deploy/stream.mjs",
                str(folder / "node_modules/node/bin/node"),
                GATEWAY_URL=f"{bridge.url}/v1",
                GATEWAY_KEY=house.site.key,
            )
        )
    assert "".join(said["parts"]) == "onetwothree"
    assert said["times"][-1] - said["times"][0] > 250
    assert said["whole"] == golden.COMPLETION["choices"][0]["message"]["content"]
    assert said["refused"] == 401


@pytest.mark.browser
async def test_a_browser_signs_in_to_the_admin_and_makes_a_key_that_works(house: House, chromium: str) -> None:
    made = json.loads((await house.emulator.invoke({"manage": ["create_admin", "--json"]})).raw)["result"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    broken: list[str] = []
    async with Bridge(house.emulator, tls=context) as bridge, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page(ignore_https_errors=True)
        page.on("response", lambda response: broken.append(response.url) if response.status >= 400 else None)
        await page.goto(f"{bridge.url}/admin/")
        await page.get_by_label("Username").fill(made["user"])
        await page.get_by_label("Password").fill(made["password"])
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("#user-tools")).to_contain_text("admin", ignore_case=True)
        cookies = {cookie["name"]: cookie["secure"] for cookie in await page.context.cookies()}
        assert cookies == {"csrftoken": True, "sessionid": True}
        await page.goto(f"{bridge.url}/admin/providers/clientkey/add/")
        await page.locator("#id_name").fill("from the browser")
        await page.get_by_role("button", name="Save", exact=True).click()
        await page.get_by_text("sk-gw-").first.wait_for()
        shown = await page.locator("body").inner_text() + await page.content()
        await browser.close()
        key = shown[shown.index("sk-gw-") :].split()[0].split('"')[0].split("<")[0]
        async with httpx.AsyncClient(base_url=bridge.url, verify=False, trust_env=False) as http:
            ask = {"model": "fast", "messages": MESSAGES}
            answer = await http.post("/v1/chat/completions", json=ask, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200
    assert broken == []
