"""The page for people at /ps/: what the gateway does now. It only reads, and only for its own origin."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ps_eval.serve.errors import Refusal
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.savings import Seen
from ps_eval.serve.status import READY_SECONDS

if TYPE_CHECKING:
    from ps_eval.serve.app import Gateway

FILES = {"": "index.html", "page.css": "page.css", "page.js": "page.js"}
"""Path below /ps/ to the file behind it."""
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Page:
    """The routes of the page."""

    def __init__(self, *, hosts: Sequence[str] = ()) -> None:
        """Read its files.

        Args:
            hosts: Names by which it may be asked for, beside `localhost` and addresses: another site could
                let a name of its own point here, and read it.
        """
        folder = resources.files("ps_eval.serve") / "page_files"
        self._files = {path: (folder / name).read_bytes() for path, name in FILES.items()}
        self._hosts = frozenset(host.lower() for host in hosts)
        self.seen = Seen()

    def routes(self, gateway: Gateway) -> list[Route]:
        """What is mounted in the gateway."""

        async def status(request: Request) -> Response:
            state = await gateway.upstream.state(READY_SECONDS)
            return JSONResponse(status_of(gateway, self.seen, state), headers=HEADERS)

        async def file(request: Request) -> Response:
            name = request.url.path.rpartition("/")[2]
            kind = FILES[name].rpartition(".")[2]
            return Response(self._files[name], media_type=TYPES[kind], headers=HEADERS)

        async def moved(request: Request) -> Response:
            return RedirectResponse("ps/", 307)

        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {"/ps": moved}
        handlers |= {f"/ps/{path}": file for path in FILES}
        handlers["/ps/status.json"] = status
        return [Route(path, self._guarded(handler), methods=["GET"]) for path, handler in handlers.items()]

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if (why := self._refused(request)) is not None:
                return JSONResponse(Refusal(403, "denied", why).content(), 403, headers=HEADERS)
            return await handler(request)

        return guarded

    def _refused(self, request: Request) -> str | None:
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if not (name.lower() in self._hosts or name.lower() == "localhost" or _is_address(name)):
            return "this page is not shown under that host name; page_hosts allows names"
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "this page is not shown to other origins"
        # A link from elsewhere may open the page; nothing else may come from elsewhere.
        site = request.headers.get("sec-fetch-site", "same-origin")
        followed = request.headers.get("sec-fetch-mode") == "navigate" and request.url.path.endswith(
            ("/ps", "/ps/")
        )
        if site not in ("same-origin", "none") and not followed:
            return "this page is not shown to other origins"
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def status_of(gateway: Gateway, seen: Seen, upstream: str) -> dict[str, Any]:
    """What the page shows: counts, rules' names and request ids; no question, key or answer."""
    metrics = gateway.metrics
    return {
        "time": time.time(),
        "upstream": upstream,
        "draining": gateway.draining,
        "observing": gateway.observing,
        "enforced": int(_value(metrics.enforced)),
        "in_flight": int(_value(metrics.in_flight)),
        "overdue": any(
            lane.budgets.batcher is not None and lane.budgets.batcher.overdue for lane in gateway.lanes.all
        ),
        "rules": list(_rules(gateway, seen)),
        "granted": _histogram(metrics),
        "fallbacks": _by(metrics.fallbacks, "reason"),
        "outcomes": _by(metrics.requests, "outcome"),
        "unbudgeted": sum(_by(metrics.unbudgeted, "route").values()),
        "empty_answers": sum(_by(metrics.empty_answers, "route").values()),
        "over_budget": _value(metrics.over_budget),
        "explored": _value(metrics.explored),
        "last": list(reversed(seen.last)),
    }


def _rules(gateway: Gateway, seen: Seen) -> Iterable[dict[str, Any]]:
    for lane in gateway.lanes.all:
        accounts = lane.budgets.accounts
        for account in (accounts.shared, *accounts.named.values()):
            # Keys without a rule of their own are shown together.
            pacers = [account.pacer]
            counted = [account]
            if account is accounts.shared:
                counted = [a for a in accounts.all if a not in accounts.named.values()]
                pacers = [a.pacer for a in counted]
            requests = sum(p.n_requests for p in pacers)
            priced = sum(a.priced_requests for a in counted)
            target = float(account.pacer.tokens_per_request or 0)
            yield {
                "name": account.name,
                "enabled": lane.enabled,
                "predicting": lane.budgets.batcher is not None,
                "price": account.pacer.price,
                "target": target,
                "requests": requests,
                "mean": sum(p.spent_tokens for p in pacers) / requests if requests else None,
                "held": sum(a.priced_tokens for a in counted) / priced if priced else None,
                "savings": seen.savings(account.name, target) if account is accounts.shared else None,
            }


def _value(metric: Any) -> float:
    return next(
        (float(s.value) for s in next(iter(metric.collect())).samples if not s.name.endswith("_created")), 0.0
    )


def _by(counter: Counter, label: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for sample in next(iter(counter.collect())).samples:
        if sample.name.endswith("_total"):
            name = sample.labels[label]
            counts[name] = counts.get(name, 0) + int(sample.value)
    return counts


def _histogram(metrics: GatewayMetrics) -> list[dict[str, Any]]:
    """Number of sequences in each interval of budgets, `upto` the tokens, None without an end."""
    bars, before = [], 0
    for sample in next(iter(metrics.granted.collect())).samples:
        if sample.name.endswith("_bucket"):
            upto, count = float(sample.labels["le"]), int(sample.value)
            bars.append({"upto": None if math.isinf(upto) else int(upto), "count": count - before})
            before = count
    return bars
