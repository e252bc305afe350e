"""A client of a server, in an environment of its own: `python client_script.py CLIENT URL MODEL [BUDGET]`.

Asks a few questions and prints the answers as JSON. With a budget it is in the bodies, as who asks vLLM
itself has to; without one a gateway gives it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

QUESTIONS = json.loads(sys.stdin.read())
CLIENT, URL, MODEL = sys.argv[1:4]
OWN = {"thinking_token_budget": int(sys.argv[4])} if len(sys.argv) > 4 else {}


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def langchain() -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 300, "extra_body": OWN}
    model = ChatOpenAI(base_url=f"{URL}/v1", api_key="key", model=MODEL, **asked)
    return {
        "whole": [model.invoke(q).content for q in QUESTIONS],
        "batch": [found.content for found in model.batch(QUESTIONS)],
        "async": [asyncio.run(model.ainvoke(q)).content for q in QUESTIONS[:1]],
        "streamed": ["".join(part.content for part in model.stream(q)) for q in QUESTIONS],
    }


def litellm() -> dict[str, Any]:
    import litellm

    litellm.suppress_debug_info = True
    asked: dict[str, Any] = {
        "model": f"hosted_vllm/{MODEL}",
        "api_base": f"{URL}/v1",
        "api_key": "key",
        "temperature": 0,
        "max_tokens": 300,
        **({"extra_body": OWN} if OWN else {}),
    }

    def streamed(question: str) -> str:
        events = litellm.completion(messages=messages(question), stream=True, **asked)
        return "".join(event.choices[0].delta.content or "" for event in events)

    async def awaited(question: str) -> str:
        found = await litellm.acompletion(messages=messages(question), **asked)
        return str(found.choices[0].message.content)

    def whole(question: str) -> str:
        return str(litellm.completion(messages=messages(question), **asked).choices[0].message.content)

    return {
        "whole": [whole(q) for q in QUESTIONS],
        "async": [asyncio.run(awaited(QUESTIONS[0]))],
        "streamed": [streamed(q) for q in QUESTIONS],
    }


def proxy() -> dict[str, Any]:
    """OpenAI's client before a proxy, whose URL this is."""
    import openai

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-of-the-test-alone")

    def ask(question: str, stream: bool) -> Any:
        return client.chat.completions.create(
            model=MODEL,
            messages=messages(question),  # type: ignore[arg-type]
            temperature=0,
            max_tokens=300,
            stream=stream,
            extra_body=OWN,
        )

    return {
        "whole": [ask(q, False).choices[0].message.content for q in QUESTIONS],
        "streamed": ["".join(e.choices[0].delta.content or "" for e in ask(q, True)) for q in QUESTIONS],
    }


print(json.dumps({"langchain": langchain, "litellm": litellm, "proxy": proxy}[CLIENT]()))
