"""Logs of others: lm-evaluation-harness, batches of OpenAI and Anthropic, benchmarks of vLLM and SGLang."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ps_eval.logs.sample import (
    Sample,
    as_mapping,
    output_tokens,
    read_correct,
    read_finished,
    read_name,
    read_text,
    read_tokens,
    shown,
)

UNCOUNTED = -1
"""Tokens of a sample whose text is still to be counted."""
HARNESS_FILE = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d.:-]+\.jsonl?")
METRICS = ("exact_match", "acc", "math_verify", "pass@1", "correct", "acc_norm")


def is_harness(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of lm-evaluation-harness's `--log_samples`."""
    return "resps" in row and "doc" in row


def harness_sample(row: Mapping[str, Any]) -> tuple[str, Sample]:
    """The filter of a row, and its sample; the first response of several, which is the one that is scored.

    The log does not say tokens: the response is kept, to be counted.

    Raises:
        ValueError: If the row has no response, or its score is none.
    """
    responses: Any = row["resps"]
    while isinstance(responses, list) and responses:
        responses = responses[0]
    if not isinstance(responses, str):
        raise ValueError("resps must hold a generated text: a task that compares likelihoods reasons nothing")
    doc = as_mapping(row["doc"])
    named = row.get("metrics")
    named = named if isinstance(named, list) else []
    metric = next(
        (name for name in (*named, *METRICS) if isinstance(name, str) and _is_grade(row, name)), None
    )
    question = next(
        (read_text(doc.get(key)) for key in ("question", "problem", "query", "input") if doc.get(key)), ""
    )
    return read_name(row.get("filter")) or "none", Sample(
        question_id=read_name(row.get("doc_id")) or _missing("doc_id"),
        tokens=UNCOUNTED,
        correct=None if metric is None else read_correct(row[metric]),
        question=question or read_text(_prompt(row.get("arguments"))),
        reference=read_name(row.get("target")),
        response=responses,
    )


def _is_grade(row: Mapping[str, Any], name: str) -> bool:
    try:
        return read_correct(row.get(name)) is not None
    except ValueError:
        return False


def harness_group(path: Path) -> tuple[tuple[str, str], ...]:
    """Task and model, which the harness writes into names alone: `ORG__MODEL/samples_TASK_DATE.jsonl`."""
    found = HARNESS_FILE.fullmatch(path.name)
    if not found:
        return ()
    folder = path.resolve().parent.name
    return (("task", found[1]), *((("model", folder),) if "__" in folder else ()))


def _prompt(arguments: Any) -> Any:
    """`{"gen_args_0": {"arg_0": prompt, …}}`, or `[[prompt, settings], …]` of older versions."""
    while isinstance(arguments, Mapping | list) and arguments:
        arguments = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    return arguments


def is_batch(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of a batch's output, OpenAI's or Anthropic's."""
    reply = row.get("result", row.get("response", ""))
    return "custom_id" in row and (reply is None or isinstance(reply, Mapping))


def batch_sample(row: Mapping[str, Any]) -> Sample:
    """One reply: of chat, completions, responses or messages.

    Raises:
        ValueError: If the request failed, or its reply lacks usage or has several answers.
    """
    if not is_batch(row):
        raise ValueError("a row must have custom_id and a response or result")
    body = _body(row)
    choices = body.get("choices")
    if isinstance(choices, list):
        if len(choices) != 1:
            raise ValueError(f"a reply must have one choice, as its usage is one number, got {len(choices)}")
        choice = as_mapping(choices[0])
        text = read_text(choice.get("message")) or read_text(choice.get("text"))
        ended = choice.get("finish_reason")
    else:  # messages, responses
        text = read_text(body.get("content")) or read_text([*_messages(body.get("output"))])
        ended = body.get("stop_reason") or body.get("status")
    model = read_name(body.get("model"))
    return Sample(
        read_name(row.get("custom_id")) or _missing("custom_id"),
        output_tokens(as_mapping(body.get("usage"))),
        finished=read_finished(ended),
        response=text,
        group=(("model", model),) if model else (),
    )


def _body(row: Mapping[str, Any]) -> Mapping[str, Any]:
    result, response = as_mapping(row.get("result")), as_mapping(row.get("response"))
    if result.get("type") == "succeeded":  # Anthropic's
        body, ok = result.get("message"), True
    else:
        body, ok = response.get("body"), not row.get("error") and response.get("status_code", 200) == 200
    if not ok or not isinstance(body, Mapping):
        raise ValueError(f"the request failed: {shown(row.get('error') or result or body)}")
    return body


def _messages(output: Any) -> Iterator[Any]:
    for item in output if isinstance(output, list) else ():
        if isinstance(item, Mapping) and item.get("type") == "message":
            content = item.get("content")
            yield from content if isinstance(content, list) else ()


def is_benchmark(content: Any) -> bool:
    """Whether JSON is the detailed result of a serving benchmark of vLLM or SGLang."""
    return isinstance(content, Mapping) and isinstance(content.get("output_lens"), list)


def benchmark_samples(content: Mapping[str, Any]) -> Iterator[tuple[int, Sample | ValueError]]:
    """Request numbers (from 0) and their samples, or what is wrong with them.

    Such a result names neither questions nor grades: questions come in the order of the data set.
    """
    lengths = content["output_lens"]
    texts, errors = (content.get(name) or [] for name in ("generated_texts", "errors"))
    model = read_name(content.get("model_id") or content.get("model"))
    for number, length in enumerate(lengths):
        error = errors[number] if isinstance(errors, list) and number < len(errors) else None
        text = texts[number] if isinstance(texts, list) and number < len(texts) else ""
        try:
            if error:
                raise ValueError(f"the request failed: {shown(error)}")
            yield (
                number,
                Sample(
                    question_id=str(number),
                    tokens=read_tokens(length),
                    response=read_text(text),
                    group=(("model", model),) if model else (),
                ),
            )
        except ValueError as fault:
            yield number, fault


def _missing(name: str) -> Any:
    raise ValueError(f"a row must have {name}, got none")
