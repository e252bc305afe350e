"""Small files shaped as the tools write them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

QUESTIONS = {"q1": "How many eggs?", "q2": "What is 2 + 2?"}
# question, sample, tokens, right, ended by itself
SAMPLES = [
    ("q1", 1, 100, 1, True),
    ("q1", 2, 900, 0, True),
    ("q2", 1, 50, 1, True),
    ("q2", 2, 1000, 0, False),
]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plain_rows() -> list[dict[str, Any]]:
    return [
        {"question_id": q, "question": QUESTIONS[q], "sample": s, "tokens": t, "correct": c, "finished": f}
        for q, s, t, c, f in SAMPLES
    ]


def inspect_log() -> dict[str, Any]:
    samples = []
    for question, epoch, tokens, right, ended in SAMPLES:
        samples.append(
            {
                "id": question,
                "epoch": epoch,
                "input": [
                    {"role": "system", "content": "Think."},
                    {"role": "user", "content": QUESTIONS[question]},
                ],
                "choices": ["3", "4"],
                "target": "B",
                "output": {
                    "model": "toy-1",
                    "choices": [
                        {"message": {"role": "assistant"}, "stop_reason": "stop" if ended else "max_tokens"}
                    ],
                },
                "model_usage": {
                    "openai/toy": {
                        "input_tokens": 9,
                        "output_tokens": tokens,
                        "reasoning_tokens": tokens // 2,
                    },
                    "openai/judge": {"input_tokens": 9, "output_tokens": 7777},
                },
                "scores": {"choice": {"value": "C" if right else "I", "answer": "B"}},
            }
        )
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "gpqa", "model": "openai/toy", "dataset": {}},
        "samples": samples,
    }


def write_eval(path: Path, log: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({k: v for k, v in log.items() if k != "samples"}))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    return path


def harness_rows() -> list[dict[str, Any]]:
    return [
        {
            "doc_id": number,
            "doc": {"question": text, "answer": "#### 4"},
            "target": "4",
            "arguments": {"gen_args_0": {"arg_0": f"Q: {text}", "arg_1": {"until": ["Q:"]}}},
            "resps": [["sam buys two eggs . then two ." * (number + 1)]],
            "filtered_resps": ["4"],
            "filter": filter_name,
            "metrics": ["exact_match"],
            "exact_match": float(number if filter_name == "strict-match" else 1),
        }
        for number, text in enumerate(QUESTIONS.values())
        for filter_name in ("strict-match", "flexible-extract")
    ]


def batch_rows() -> list[dict[str, Any]]:
    return [
        {
            "id": f"batch_req_{number}",
            "custom_id": f"{question}-{sample}",
            "response": {
                "status_code": 200,
                "body": {
                    "model": "toy",
                    "choices": [
                        {
                            "message": {"role": "assistant", "content": f"So \\boxed{{{4 if right else 5}}}"},
                            "finish_reason": "stop" if ended else "length",
                        }
                    ],
                    "usage": {
                        "completion_tokens": tokens,
                        "completion_tokens_details": {"reasoning_tokens": tokens - 1},
                    },
                },
            },
            "error": None,
        }
        for number, (question, sample, tokens, right, ended) in enumerate(SAMPLES)
    ]


def responses_row() -> dict[str, Any]:
    content = [{"type": "output_text", "text": "The answer is 4"}]
    body = {
        "model": "toy",
        "status": "incomplete",
        "output": [{"type": "reasoning", "summary": []}, {"type": "message", "content": content}],
        "usage": {"output_tokens": 70, "output_tokens_details": {"reasoning_tokens": 60}},
    }
    return {"custom_id": "q2", "response": {"status_code": 200, "body": body}, "error": None}


def message_row(name: str, tokens: int, text: str, reason: str = "end_turn") -> dict[str, Any]:
    """A line of a batch's results as Anthropic writes it."""
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}]
    usage = {"input_tokens": 9, "output_tokens": tokens}
    message = {"model": "toy", "role": "assistant", "content": content, "stop_reason": reason, "usage": usage}
    return {"custom_id": name, "result": {"type": "succeeded", "message": message}}


def benchmark() -> dict[str, Any]:
    return {
        "backend": "openai-chat",
        "model_id": "toy",
        "num_prompts": 2,
        "input_lens": [9, 9],
        "output_lens": [120, 340],
        "ttfts": [0.1, 0.1],
        "generated_texts": ["The answer is 4", "The answer is 5"],
        "errors": ["", ""],
    }


def decision(
    number: int, question: dict[str, Any], granted: int, used: int | None, **more: Any
) -> dict[str, Any]:
    return {
        "format": 1,
        "time": 1.7e9 + number,
        "request_id": f"r{number}",
        "model": "toy",
        "outcome": "ok",
        "questions": [question],
        "sequences": 1,
        "granted": granted,
        "explored": False,
        "price": 0.001,
        "used": used,
        "completion_tokens": used,
        "finish_reason": "stop",
        "empty": False,
        "budgets": [256, 512],
        "curve": [0.2, 0.4],
        **more,
    }


def feedback(number: int, correct: float) -> dict[str, Any]:
    return {"format": 1, "time": 1.7e9, "request_id": f"r{number}", "correct": correct}
