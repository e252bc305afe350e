"""Which path gets a budget, which passes, which is denied; and its name in the metrics."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ps_eval.serve.request_body import Dialect

Policy = Literal["budget", "pass", "deny"]


@dataclass(frozen=True, slots=True)
class Route:
    """What is done with a request."""

    policy: Policy
    name: str
    """In the metrics."""
    dialect: Dialect | None = None
    """Whose fields the body has; None where the gateway does not read it."""
    thinks: bool = False
    """A model may think there: what passes is counted as unbudgeted."""


OTHER = Route("pass", "other")
TABLE: Mapping[str, Route] = {
    "/v1/completions": Route("budget", "completions", "completions", thinks=True),
    "/v1/chat/completions": Route("budget", "chat", "chat", thinks=True),
    "/v1/chat/completions/batch": Route("budget", "chat_batch", "chat", thinks=True),
    "/v1/responses": Route("budget", "responses", "responses", thinks=True),
    "/v1/messages": Route("budget", "messages", "messages", thinks=True),
    "/invocations": Route("budget", "invocations", thinks=True),  # as its body says
    "/completion": Route("pass", "native", thinks=True),  # llama.cpp
    "/completions": Route("budget", "completions", "completions", thinks=True),  # llama.cpp
    "/chat/completions": Route("budget", "chat", "chat", thinks=True),  # llama.cpp
    "/responses": Route("budget", "responses", "responses", thinks=True),  # llama.cpp
    "/infill": Route("pass", "native", thinks=True),
    "/generate": Route("pass", "native", thinks=True),  # SGLang
    "/inference/v1/generate": Route("pass", "native", thinks=True),  # vLLM
    "/api/generate": Route("pass", "native", thinks=True),  # Ollama
    "/api/chat": Route("pass", "native", thinks=True),
    "/v2/chat": Route("pass", "native", thinks=True),  # as Cohere
    "/cohere/v2/chat": Route("pass", "native", thinks=True),  # vLLM
}
ADMIN = re.compile(
    "/(?:"
    # vLLM
    "sleep|wake_up|is_sleeping|release_kv_cache_memory|collective_rpc|server_info|pause|resume|is_paused"
    "|reset_(?:prefix|mm|encoder)_cache|scale_elastic_ep|is_scaling_elastic_ep|fault_tolerance/.*"
    "|(?:inference/v1/)?abort_requests?|start_profile|stop_profile|v1/(?:un)?load_lora_adapter|weight_info"
    "|(?:init|shutdown)_weight_transfer_engine|(?:start|finish)_(?:draft_)?weight_update|weight_checker"
    # SGLang
    "|flush_cache|clear_hicache.*|(?:hicache|dump|freeze)[a-z_]*|update_weights?[a-z_]*|[a-z_]*weights_by_name"
    "|(?:init|destroy)_weights[a-z_]*|(?:release|resume)_memory_occupation|(?:un)?load_lora_adapter"
    "|set_internal_state|get_internal_state|configure_logging|slow_down|(?:open|close)_session"
    "|(?:start|stop)_expert_distribution_record|dump_expert_distribution_record|shutdown"
    # llama.cpp
    "|slots(?:/.*)?|lora-adapters|models/(?:un)?load|models/sse|cors-proxy|tools|v1/streams?(?:/.*)?"
    "|(?:v1/)?chat/completions/control"
    ")"
)
"""Paths by which a server is steered, or others' requests seen: denied unless `routes` says otherwise."""
WRITTEN = re.compile("/(?:props|models)")
"""Paths that tell where they are read (GET), and steer where they are written."""


class RouteTable:
    """The policy of every path: of `TABLE`, with changes."""

    def __init__(self, changes: Mapping[str, Policy] | None = None) -> None:
        """Set the table.

        Args:
            changes: Path to its policy; a path may end in `*`, and one without goes before those with.
                `budget` only for paths that can have one.

        Raises:
            ValueError: If a path is none, a policy is none, or no budget can be given there.
        """
        self._exact: dict[str, Policy] = {}
        self._prefixes: dict[str, Policy] = {}
        for path, policy in (changes or {}).items():
            if not path.startswith("/"):
                raise ValueError(f"a path in routes must begin with /, got {path!r}")
            if policy not in ("budget", "pass", "deny"):
                raise ValueError(f"a policy in routes must be budget, pass or deny, got {policy!r}")
            known = TABLE.get(path, OTHER)
            if policy == "budget" and known.policy != "budget":
                can = sorted(name for name, route in TABLE.items() if route.policy == "budget")
                raise ValueError(f"budgets can be given on {', '.join(can)}, got {path!r}")
            if path.endswith("*"):
                self._prefixes[path[:-1]] = policy
            else:
                self._exact[path] = policy

    def of(self, method: str, path: str) -> Route:
        """The route of a request; `path` decoded. Servers behind may take `//a/` and `/x/../a` for `/a`: so
        does this.
        """
        path = posixpath.normpath("/" + path.lstrip("/"))
        route = TABLE.get(path, OTHER)
        changed = self._exact.get(path) or next(
            (policy for prefix, policy in self._prefixes.items() if path.startswith(prefix)), None
        )
        if changed is not None:
            route = replace(route, policy=changed)
        elif path not in TABLE:
            written = method not in ("GET", "HEAD", "OPTIONS") and WRITTEN.fullmatch(path)
            return Route("deny", "admin") if written or ADMIN.fullmatch(path) else OTHER
        return OTHER if method != "POST" and route.policy == "budget" else route
