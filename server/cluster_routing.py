"""Which ingress answers a request: one that is there at this moment."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import FIFOMixin, RequestRouter


class PresentIngress(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """Asks every ingress before each request and takes the least busy of those that answer within 100 ms.

    Ray Serve's own routers go by what an ingress said up to ten seconds ago; one whose machine has vanished would be
    given requests that long, and a page waits five seconds at most.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named | {"use_replica_queue_len_cache": False})

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        return [candidate_replicas]
