"""The line between a page in Chromium and the server: sound and pictures go through relays that can lose all of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.impairment import CLEAN, Impairment, Relay

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

GONE = Impairment(loss=1.0)


class PageLine:
    """`lost` and `restored` act on requests and datagrams alike. Every offer that the page makes gets a relay."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._loop = asyncio.new_event_loop()
        self._relays: list[Relay] = []
        self._how = CLEAN

    def lost(self) -> None:
        self._set(GONE)

    def restored(self) -> None:
        self._set(CLEAN)

    def _set(self, how: Impairment) -> None:
        self._how = how
        for relay in self._relays:
            relay.up.impairment = relay.down.impairment = how
        self._page.context.set_offline(how is GONE)

    def offer(self, route: Route) -> None:
        """Pass an offer on, and its answer back, so that either end knows the relay for the other."""
        if route.request.method != "POST" or self._how is GONE:
            route.continue_()
            return
        relay = Relay(len(self._relays))
        self._relays.append(relay)
        offer = self._run(relay.offered(route.request.post_data or ""))
        answer = route.fetch(post_data=offer, max_retries=3)  # a server may hang up a connection that waits for reuse
        route.fulfill(response=answer, body=self._run(relay.answered(answer.text())))

    def _run(self, work: Coroutine[Any, Any, str]) -> str:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    @contextmanager
    def opened(self) -> Iterator[PageLine]:
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        self._page.route("**/sessions?*", self.offer)
        self._page.route("**/sessions/*", self.offer)
        try:
            yield self
        finally:
            for relay in self._relays:
                asyncio.run_coroutine_threadsafe(relay.__aexit__(None, None, None), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()
