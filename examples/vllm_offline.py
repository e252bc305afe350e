"""An offline batch with vLLM under predicted reasoning budgets, on the embedded reasoner; needs no GPU.

python examples/vllm_offline.py
"""

from __future__ import annotations

from vllm import SamplingParams

from ps_alloc import allocate
from ps_eval.engines.vllm_load import load_llm
from ps_train import load_predictor
from ps_train.common.prompts import encode_prompts
from ps_train.embedded.problem_families import make_problems

MODEL, PREDICTOR = "checkpoints/tiny-reasoner", "checkpoints/tiny-predictor"
END, FORCED_ANSWER, MEAN_TOKENS = "</think>", "</think> Answer :", 48


def main() -> None:
    problems = make_problems(64, seed=1)
    questions = [problem.question for problem in problems]

    # Decide: P(right) of every question after 16, 32, … tokens; spend the tokens where they help most.
    predictor = load_predictor(PREDICTOR)
    curves = predictor.predict_curves(questions)
    budgets = allocate(curves, total_tokens=MEAN_TOKENS * len(questions), window=predictor.window).tokens

    # Reason: each question within its own budget. Prefix caching makes the answers' prompts free.
    llm = load_llm(MODEL)  # vllm.LLM; on a GPU, LLM(MODEL) will do
    tokenizer = llm.get_tokenizer()
    prompts = encode_prompts(tokenizer, questions)
    (end,) = tokenizer.encode(END, add_special_tokens=False)
    think = [
        SamplingParams(max_tokens=int(b), temperature=0.7, seed=i, stop_token_ids=[end])
        for i, b in enumerate(budgets)
    ]
    reasonings = [o.outputs[0] for o in llm.generate([{"prompt_token_ids": p} for p in prompts], think)]

    # Answer: go on after the end marker; where the budget ended the reasoning, force an answer.
    forced = tokenizer.encode(FORCED_ANSWER, add_special_tokens=False)
    contexts = [
        p + list(r.token_ids) + ([] if r.finish_reason == "stop" else forced)
        for p, r in zip(prompts, reasonings, strict=True)
    ]
    answers = llm.generate(
        [{"prompt_token_ids": c} for c in contexts], SamplingParams(max_tokens=8, temperature=0)
    )
    texts = [a.outputs[0].text for a in answers]
    right = sum(t.split()[-1:] == [str(p.answer)] for t, p in zip(texts, problems, strict=True))
    spent = sum(len(r.token_ids) for r in reasonings) / len(questions)
    print(f"{right} of {len(questions)} right with {spent:.0f} reasoning tokens a question")


if __name__ == "__main__":
    main()
