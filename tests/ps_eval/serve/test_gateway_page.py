"""The page at /ps/: what it tells, to whom, and how it looks in a real browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PROGRAM, browsing
from running import RunningGateway, UpstreamProcess

from ps_alloc import Pacer
from ps_eval.serve.page import FILES, Page
from ps_eval.serve.savings import Savings

Start = Callable[..., RunningGateway]
SECRET = "a hard secret question"
WIDTHS = (390, 1280)
CUT = """[...document.querySelectorAll('main *, header *')].filter(e => e.checkVisibility() &&
  (e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
   && getComputedStyle(e).display !== 'inline')).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
# A cell that is squeezed breaks its words into many lines.
TALLEST = """Math.max(...[...document.querySelectorAll('#last span, .bar span')]
  .map(e => e.getBoundingClientRect().height))"""
# WCAG's contrast of two colours, over every element that has text of its own.
CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126*r + 0.7152*g + 0.0722*b };
  const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== 'rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' };
  const all = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  return Math.min(...all.map(e => { const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort();
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) })) })()"""


def asked(
    gateway: RunningGateway, path: str = "/ps/status.json", method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    address = gateway.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers={"Host": address} | named)
    response = connection.getresponse()
    got = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    connection.close()
    return got


def status(gateway: RunningGateway) -> dict[str, Any]:
    return dict(json.loads(asked(gateway)[2]))


@pytest.fixture
def gateway(upstream: UpstreamProcess, start_gateway: Start) -> RunningGateway:
    gateway = start_gateway(
        upstream.url, gateway={"page": Page()}, pacer=Pacer(64, initial_price=0.004, step=0.1)
    )
    gateway.post({"prompt": SECRET, "max_tokens": 60})
    for number in range(12):
        headers = {"x-request-id": f"r{number}", "Authorization": "Bearer sk-secret"}
        gateway.post({"prompt": SECRET if number % 3 else "easy", "model": "<b>m</b>"}, headers=headers)
    gateway.post({"prompt": [7, 8, 9]})
    assert gateway.outcomes("ok") == 14
    return gateway


def test_it_tells_what_is_held_granted_and_decided(gateway: RunningGateway) -> None:
    said = status(gateway)
    rule = said["rules"][0]
    assert (rule["name"], rule["requests"], rule["target"]) == ("default", 14, 64)
    assert rule["price"] == pytest.approx(gateway.pacer.price)
    assert rule["mean"] == pytest.approx(gateway.pacer.spent_tokens / 14)
    assert sum(bar["count"] for bar in said["granted"]) == 14
    assert said["granted"][-1]["upto"] is None
    assert said["fallbacks"] == {"unreadable": 1}
    assert said["outcomes"] == {"ok": 14}
    assert (said["upstream"], said["enforced"], said["observing"]) == ("reachable", -1, False)
    assert [one["id"] for one in said["last"][1:-1]] == [f"r{n}" for n in reversed(range(12))]
    assert b'ps_gateway_lane_target_tokens{lane="default"} 64.0' in asked(gateway, "/metrics")[2]
    assert rule["savings"]["requests"] == 12  # neither the one that its client cut, nor that without a curve


def test_it_holds_no_question_no_model_and_no_key(gateway: RunningGateway) -> None:
    content = asked(gateway)[2].decode()
    assert "secret" not in content
    assert "<b>" not in content


def test_it_is_for_its_own_origin_alone(gateway: RunningGateway) -> None:
    own = gateway.url.removeprefix("http://")
    elsewhere = {"origin": "https://evil.example"}
    for path in ("/ps", "/ps/status.json", *(f"/ps/{name}" for name in FILES)):
        assert asked(gateway, path, **elsewhere)[0] == 403
        assert asked(gateway, path, Host="evil.example:80")[0] == 403
        assert asked(gateway, path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert asked(gateway, "/ps/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert asked(gateway, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 403
    assert asked(gateway, origin=f"http://{own}", Sec_Fetch_Site="same-origin")[0] == 200
    for host in (own.replace("127.0.0.1", "localhost"), "[::1]:8100", "10.0.0.7"):
        assert asked(gateway, Host=host)[0] == 200
    _, headers, _ = asked(gateway)
    assert "access-control-allow-origin" not in headers
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert asked(gateway, "/ps")[1]["location"] == "ps/"


def test_pages_that_may_ask_the_api_may_not_read_it(upstream: UpstreamProcess, start_gateway: Start) -> None:
    friend = "https://chat.example.org"
    gateway = start_gateway(
        upstream.url, gateway={"page": Page(hosts=["Ps.Example"]), "cors_origins": [friend]}
    )
    assert asked(gateway, origin=friend)[0] == 403
    assert asked(gateway, Host="ps.example:8100")[0] == 200


def test_it_only_reads_and_can_be_switched_off(
    gateway: RunningGateway, upstream: UpstreamProcess, start_gateway: Start
) -> None:
    assert asked(gateway, method="POST")[0] == 404
    without = start_gateway(upstream.url)
    assert [asked(without, path)[0] for path in ("/ps/", "/ps/status.json", "/ps/page.js")] == [404] * 3


def test_savings_are_against_the_equal_budget_that_is_right_as_often() -> None:
    savings = Savings(np.array([16, 32, 48, 64]))
    assert savings.seen(32) is None
    savings.add(np.array([0.9, 0.9, 0.9, 0.9]), 16, 1)
    savings.add(np.array([0.0, 0.3, 0.6, 0.9]), 64, 1)
    seen = savings.seen(40)
    assert seen is not None
    # Mean curve 0, 0.45, 0.6, 0.75, 0.9: 40 tokens for each are right 67.5% of the time; 90% need 64.
    assert seen["granted"] == 40
    assert seen["predicted_right"] == pytest.approx(0.9)
    assert seen["uniform_right"] == pytest.approx(0.675)
    assert seen["uniform_needed"] == pytest.approx(64)
    assert seen["saved"] == pytest.approx(48)


def test_savings_beyond_the_grid_are_a_lower_bound() -> None:
    savings = Savings(np.array([16, 32]))
    savings.add(np.array([0.9, 0.2]), 16, 2)  # falls: no equal budget of the risen mean curve is needed above
    savings.add(np.array([0.1, 0.9]), 32, 2)
    seen = savings.seen(24)
    assert seen is not None
    assert (seen["uniform_needed"], seen["saved"]) == (None, (32 - 24) * 4)


@pytest.mark.skipif(PROGRAM is None, reason="needs chromium (Debian: apt-get install chromium)")
@pytest.mark.timeout(300)
def test_it_is_whole_in_a_real_browser_light_dark_and_narrow(gateway: RunningGateway, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("PS_PAGE_PICTURES", tmp_path))

    async def look() -> None:
        async with browsing(tmp_path) as browser:
            for width in WIDTHS:
                for scheme in ("light", "dark"):
                    await browser.show(f"{gateway.url}/ps/", width, scheme)
                    shown = "document.querySelectorAll('#last tr').length === 14"
                    assert await browser.until(shown), browser.errors
                    await browser.picture(pictures / f"{width}_{scheme}.png")
                    assert await browser.value(CUT) == [], (width, scheme)
                    assert await browser.value("document.documentElement.scrollWidth") <= width
                    assert await browser.value(TALLEST) < 50, (width, scheme)
                    assert await browser.value(CONTRAST) >= 4.5, (width, scheme)
                    back = await browser.value("getComputedStyle(document.body).backgroundColor")
                    assert back == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 23, 22)")
            assert "uniform would need" in await browser.value("document.body.textContent")
            # What is not the gateway's own is text: no element comes of it.
            hostile = (
                "decisions([{...{}, id: '<img src=x>', rule: '<b>', route: '', outcome: 'ok', time: 0}])"
            )
            await browser.value(hostile)
            assert await browser.value("document.querySelectorAll('#last img, #last b').length") == 0
            assert browser.errors == []
            # It goes on by itself: a new request appears.
            await asyncio.to_thread(gateway.post, {"prompt": "easy"}, headers={"x-request-id": "late"})
            assert await browser.until("document.querySelector('#last').textContent.includes('late')")

    asyncio.run(look())
