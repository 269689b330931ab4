"""*Usage* as it is drawn, under the pages' content security policy, on a desk and on a phone."""

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import async_playwright

from tests.proxysite.commands import Running, manage
from tests.proxysite.test_server import free_port

SEED = """
import time
from django.contrib.auth.models import User
from ledger import drain
from ledger.entries import Settled
User.objects.create_superuser("root", password="a-word-for-this-test-1")
drain.store([
    Settled(f"r{number}", at=time.time() - 86_400 * (number % 28), key="k1", alias=f"alias-{number % 13}", outcome="ok")
    for number in range(280)
])
"""
DRAWN = """() => {
    const swatches = [...document.querySelectorAll(".legend .swatch")].map(one => getComputedStyle(one).backgroundColor)
    const days = [...document.querySelectorAll("#chart-requests-title ~ .day")].map(day =>
        [...day.querySelectorAll("rect:not(.hit)")].reduce((sum, bar) => sum + bar.getBoundingClientRect().height, 0))
    return {
        colours: new Set(swatches).size,
        days: days.map(height => Math.round(height)),
        plot: document.querySelector("#chart-requests-title").parentElement.getBoundingClientRect().height,
        width: document.documentElement.scrollWidth,
    }
}"""


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
async def test_the_bars_are_drawn_without_a_breach_of_the_policy(
    tmp_path: Path, chromium: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    port = free_port()
    await asyncio.to_thread(manage, tmp_path, "migrate", "-v", "0", DJANGO_DEBUG="1")
    await asyncio.to_thread(manage, tmp_path, "shell", "-c", SEED, DJANGO_DEBUG="1")
    said: list[str] = []
    async with (
        Running(tmp_path, port, "runserver", str(port), "--noreload", DJANGO_DEBUG="1"),
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        await page.goto(f"http://127.0.0.1:{port}/admin/")
        await page.fill("#id_username", "root")
        await page.fill("#id_password", "a-word-for-this-test-1")
        await page.click("input[type=submit]")
        await page.get_by_role("link", name="Usage", exact=True).click()
        await page.get_by_role("heading", name="By alias").wait_for()
        found = await page.evaluate(DRAWN)
        await page.get_by_role("link", name="alias-1", exact=True).click()
        await page.get_by_text("22 usage records").first.wait_for()
        await browser.close()
    assert said == []
    # Ten requests on each of 28 days, up to the highest line; no bar on the two other days.
    assert sorted(found["days"]) == [0, 0] + [round(found["plot"])] * 28
    assert (found["colours"], found["width"]) == (11, width)
