"""Many requests of every kind at once: each is charged exactly once, or not at all."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable

import aiohttp
from running import RunningGateway, UpstreamProcess, eventually

Start = Callable[..., RunningGateway]
REQUESTS = 400


def test_of_many_mixed_requests_none_is_charged_wrongly(
    upstream: UpstreamProcess, start_gateway: Start
) -> None:
    gateway = start_gateway(upstream.url, predict_timeout=30)
    url = f"{gateway.url}/v1/completions"
    expected = {"requests": 0, "tokens": 0}

    async def ask(
        session: aiohttp.ClientSession, body: object, sequences: int = 0, leave: float = 60.0, **headers: str
    ) -> None:
        """Ask; `sequences` are charged unless the answer is an error, or the client leaves before it."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            async with asyncio.timeout(leave), session.post(url, data=data, headers=sent) as response:
                if response.status < 400:
                    expected["requests"] += sequences
                    expected["tokens"] += sequences * int(response.headers["x-ps-budget"])
                if headers.get("x_mode") == "endless":
                    await response.content.readany()
                    response.close()
                else:
                    await response.read()
        except (TimeoutError, aiohttp.ClientError):
            pass

    async def everything() -> None:
        draw = random.Random(0)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)) as session:
            kinds: list[Callable[[], asyncio.Future[None]]] = [
                lambda: ask(session, {"prompt": "hard"}, 1),
                lambda: ask(session, {"prompt": "easy", "n": 3}, 3),
                lambda: ask(session, {"prompt": ["hard", "easy"], "max_tokens": 1}, 2),
                lambda: ask(session, {"prompt": "hard"}, 1, x_mode="endless", x_delay="0.01"),
                lambda: ask(session, {"prompt": "hard"}, 1, x_status="401"),
                lambda: ask(session, {"prompt": "hard", "n": 128}, 128, x_status="500"),
                lambda: ask(session, {"prompt": "hard", "n": 128}, 128, leave=0.4, x_delay="60"),
                lambda: ask(session, {"prompt": "hard", "n": 129}),
                lambda: ask(session, b'{"prompt": '),
                lambda: ask(session, {"prompt": "hard", "reasoning_effort": "none"}),
            ]  # type: ignore[list-item]
            await asyncio.gather(*(draw.choice(kinds)() for _ in range(REQUESTS)))

    asyncio.run(everything())
    assert eventually(lambda: gateway.gateway.open_requests == 0)
    assert expected["requests"] > 100
    booked = (gateway.pacer.n_requests, gateway.pacer.spent_tokens)
    assert booked == (expected["requests"], expected["tokens"])
    for outcome in ("ok", "rejected", "failed", "invalid", "disconnected"):
        assert gateway.outcomes(outcome) > 0
    assert gateway.outcomes("defect") == 0
    assert gateway.count("in_flight") == 0
