"""The interactive docs in a browser, under the pages' content security policy and with no address but ours."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from tests.proxysite.commands import Running, manage
from tests.proxysite.test_server import free_port


@pytest.mark.browser
async def test_the_docs_are_drawn_without_a_breach_of_the_policy(tmp_path: Path, chromium: str) -> None:
    port = free_port()
    await asyncio.to_thread(manage, tmp_path, "migrate", "-v", "0", DJANGO_DEBUG="1")
    said: list[str] = []
    asked: list[str] = []
    async with Running(tmp_path, port, "runserver", str(port), "--noreload"), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"http://127.0.0.1:{port}/docs")
        await page.get_by_text("/v1/embeddings", exact=True).wait_for()
        await browser.close()
    assert said == []
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {f"127.0.0.1:{port}"}
