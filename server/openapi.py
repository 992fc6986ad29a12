"""What the OpenAPI document cannot tell from the handlers: bodies that they read themselves, and their refusals."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

OFFER = {"content": {"application/sdp": {"schema": {"type": "string"}}}, "required": True}
PHOTO = {
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"photo": {"type": "string", "format": "binary"}},
                "required": ["photo"],
            }
        }
    },
    "required": True,
}
SPEECH = {
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"text": {"type": "string", "maxLength": 4000}, "voice": {"type": "string"}},
                "required": ["text"],
            }
        },
    },
    "required": True,
}
FRAGMENT = {"content": {"application/trickle-ice-sdpfrag": {"schema": {"type": "string"}}}, "required": True}
BODIES = {
    ("post", "/sessions"): OFFER,
    ("post", "/sessions/{name}"): OFFER,
    ("post", "/sessions/{name}/speech"): SPEECH,
    ("post", "/avatars"): PHOTO,
    ("post", "/whip/{room}"): OFFER,
    ("patch", "/whip/{room}/{name}"): FRAGMENT,
    ("post", "/whep/{room}"): OFFER,
    ("patch", "/whep/{room}/{name}"): FRAGMENT,
}
PROBLEM = {
    "description": "A refusal (RFC 9457)",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "properties": {
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "reason": {"type": "string"},
                },
                "required": ["title", "status", "detail"],
            }
        }
    },
}
BEARER = {"bearer": {"type": "http", "scheme": "bearer", "description": "A token, or the key of a link"}}


def describe(app: FastAPI) -> None:
    """Complete the document that `app` serves at `/openapi.json`."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document.setdefault("components", {})["securitySchemes"] = BEARER
            document["security"] = [{}, {"bearer": []}]  # which of them is a matter of the settings
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    operation["responses"].pop("422", None)  # FastAPI's own form of it is not used
                    operation["responses"]["default"] = PROBLEM
                    if (method, path) in BODIES:
                        operation["requestBody"] = BODIES[method, path]
        return app.openapi_schema or {}

    app.openapi = complete  # type: ignore[method-assign]
