"""Refusals in the OpenAI error format, which clients turn into exceptions that carry the sentence."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Refusal(Exception):
    """A request ends here: what the client is told, and how it is counted."""

    def __init__(self, status: int, outcome: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.outcome = outcome
        """Label in `ps_gateway_requests_total`."""
        self.headers = dict(headers or {})

    def content(self) -> dict[str, object]:
        """The error object."""
        kind = KINDS.get(self.status, "internal_error")
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.status}}


def invalid(message: str) -> Refusal:
    """400: the request cannot be served as it stands."""
    return Refusal(400, "invalid", message)


def overloaded(message: str = "too many requests are under way") -> Refusal:
    """503: later, please."""
    return Refusal(503, "overloaded", message, {"retry-after": "1"})


class ClientDisconnected(Exception):
    """The client went away; nobody is left to answer."""
