r"""The same budgets on a server that knows vLLM's `thinking_token_budget`.

python -m vllm.entrypoints.openai.api_server --model checkpoints/tiny-reasoner --port 8000 \
    --served-model-name tiny-reasoner \
    --reasoning-config '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'
OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python examples/openai_client.py
"""

from __future__ import annotations

import asyncio

from openai import AsyncOpenAI

from ps_alloc import allocate
from ps_train import load_predictor
from ps_train.embedded.problem_families import make_problems

MODEL, PREDICTOR, MEAN_TOKENS = "tiny-reasoner", "checkpoints/tiny-predictor", 48


async def main() -> None:
    problems = make_problems(64, seed=1)
    questions = [problem.question for problem in problems]
    predictor = load_predictor(PREDICTOR)
    curves = predictor.predict_curves(questions)
    budgets = allocate(curves, total_tokens=MEAN_TOKENS * len(questions), window=predictor.window).tokens

    client = AsyncOpenAI()
    replies = await asyncio.gather(
        *(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": question}],
                max_tokens=int(budget) + 16,
                temperature=0.7,
                extra_body={"thinking_token_budget": int(budget)},
            )
            for question, budget in zip(questions, budgets, strict=True)
        )
    )
    answers = [reply.choices[0].message.content or "" for reply in replies]
    right = sum(a.split()[-1:] == [str(p.answer)] for a, p in zip(answers, problems, strict=True))
    spent = sum(reply.usage.completion_tokens for reply in replies if reply.usage) / len(questions)
    print(f"{right} of {len(questions)} right with {spent:.0f} tokens a question, answers included")


if __name__ == "__main__":
    asyncio.run(main())
