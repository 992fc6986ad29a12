"""The page of a cluster, when the worker that has its call dies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser import Visit, visit
from tests.front import fronted

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def mouth(visitor: Visit) -> float:
    """How far the mouth of the latest call is told to move."""
    return float(httpx.get(f"{visitor.sessions[-1]}/stats").json()["controls"]["mouth_scale"])


def test_a_call_whose_worker_dies_goes_on_at_another(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with fronted(tmp_path_factory, "aaaa0001", "bbbb0002") as front, visit(chromium, front.url) as visitor:
        visitor.refusals = {404}
        page = visitor.open()
        page.locator("#faces input[value=astronaut]").check(force=True)
        visitor.call()
        page.evaluate(
            """() => {
              const slider = document.querySelector('input[name=mouth_scale]');
              slider.value = 0.75;
              slider.dispatchEvent(new Event('input', { bubbles: true }));
            }"""
        )
        visitor.until(lambda: mouth(visitor) == 0.75)
        before = visitor.sessions[-1]
        owner = before.rpartition("/")[2].partition("-")[0]
        front.servers[owner].process.kill()
        front.servers[owner].process.wait()
        died = time.monotonic()
        visitor.until(lambda: len(visitor.sessions) == 2)
        visitor.state("live")
        print(f"live again {time.monotonic() - died:.1f} s after the worker died")
        after = visitor.sessions[-1]
        assert owner not in after
        assert httpx.get(f"{after}/stats").json()["avatar"] == "astronaut"
        visitor.until(lambda: mouth(visitor) == 0.75)
        assert page.inner_text("#headline") == "It speaks with you."


def test_a_call_that_the_server_ended_is_not_begun_anew(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with fronted(tmp_path_factory, "aaaa0001") as front, visit(chromium, front.url) as visitor:
        visitor.refusals = {404}
        page = visitor.open()
        visitor.call()
        httpx.delete(visitor.sessions[-1], timeout=20)
        visitor.state("failed", 30)
        assert page.inner_text("#headline") == "The call is over"
        assert len(set(visitor.sessions)) == 1
