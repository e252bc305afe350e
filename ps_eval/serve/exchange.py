"""One request's way through the gateway: what is known of it, for the logs."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from ps_eval.serve.answer_watch import Observed
from ps_eval.serve.grant import Grant
from ps_eval.serve.lanes import Client, Lane
from ps_eval.serve.relay import Reply
from ps_eval.serve.routes import Route

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass
class Exchange:
    """A request and its reply."""

    scope: Scope
    route: Route
    reply: Reply
    client: Client = field(default_factory=Client)
    lane: Lane | None = None
    grant: Grant | None = None
    observed: Observed = field(default_factory=Observed)
    used: int | None = None
    """Reasoning tokens, where the response tells."""
    enforced: bool = False
    """Whether the server was told the budget."""
    own_budget: int | None = None
    """The client's, in the body it sent."""
    status: int = 0
    model: str | None = None
    outcome: str = ""

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.id = request_id(self.scope["headers"])
        self.reply.headers = {"x-ps-request-id": self.id}

    @property
    def target(self) -> str:
        """Path and query as the client encoded them."""
        query = self.scope["query_string"]
        path = self.scope["raw_path"].decode("latin-1")
        return f"{path}?{query.decode('latin-1')}" if query else path

    @property
    def cap(self) -> int | None:
        """Reasoning tokens that the server was held to, by the gateway or by the client; None: to none."""
        return self.grant.tokens if self.enforced and self.grant is not None else self.own_budget

    @property
    def seconds(self) -> float:
        """Since its head was there."""
        return time.monotonic() - self.begin

    def logged(self) -> dict[str, Any]:
        """For the access log: no body, query, header or key."""
        line: dict[str, Any] = {
            "request_id": self.id,
            "method": self.scope["method"],
            "route": self.route.name,
            "status": self.reply.status,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 4),
        }
        if self.grant is not None:
            line |= {"budget": self.grant.tokens, "fallback": self.grant.fallback, "used": self.used}
        if self.client.name is not None:
            line["key"] = self.client.name
        return {name: value for name, value in line.items() if value is not None}


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's own `x-request-id`, where it is one; else a new one."""
    own = next((value for name, value in headers if name == b"x-request-id"), b"")
    return own.decode("ascii") if REQUEST_ID.fullmatch(own) else uuid.uuid4().hex
