"""What the embedded reasoner's curves are like: the figures of its model card.

ps-eval make-problems --output runs/tiny/train.jsonl --num-problems 3000 --seed 101
ps-eval trace --questions runs/tiny/train.jsonl --model checkpoints/tiny-reasoner --output runs/tiny/train \
    --num-traces 4 --temperature 0.7 --top-p 1.0
python benchmarks/tiny_reasoner.py --table runs/tiny/train
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import spearmanr

from ps_train.curve_table import CurveTable
from ps_train.embedded.word_problems import MAX_DISTRACTORS


def num_others(question: str) -> int:
    """Sentences of a diary that are about people other than the one asked about."""
    *sentences, asked = question.split(" . ")
    person = asked.split()[4]
    return sum(sentence.split()[1] != person for sentence in sentences)


def main() -> None:
    parser = argparse.ArgumentParser(description="Describe the curves of a table of diary word problems.")
    parser.add_argument("--table", required=True, help="a curve table made by `ps-eval trace`")
    table = CurveTable.load(parser.parse_args().table, features=[])
    words = np.array([len(question.split()) for question in table.questions])
    lengths = table.extra["mean_length"]
    # The first window at which a curve is within 0.05 of its best: the budget the question needs.
    needed = (table.curves >= table.curves.max(axis=1, keepdims=True) - 0.05).argmax(axis=1) + 1
    final = table.curves[:, -1]
    # Noise alone spreads curves; what exceeds binomial noise is difference between questions.
    noise = np.mean(final * (1 - final) / np.maximum(table.n_traces - 1, 1))

    others = np.array([num_others(question) for question in table.questions])
    by_others = [f"{final[others == n].mean():.2f}" for n in range(MAX_DISTRACTORS + 1)]
    rows = {
        "questions": f"{len(table)}, {table.n_traces[0]} traces each",
        "accuracy by window (%)": np.round(100 * table.curves.mean(axis=0)).astype(int),
        "reasoning tokens, percentiles 5/50/95": np.percentile(lengths, [5, 50, 95]).round(),
        "questions by windows needed (%)": np.round(100 * np.bincount(needed)[1:] / len(table)).astype(int),
        "final accuracy: mean": f"{final.mean():.3f}",
        "final accuracy: sd beyond noise": f"{np.sqrt(max(final.var() - noise, 0)):.3f}",
        "never / always right at the end": f"{np.mean(final == 0):.3f} / {np.mean(final == 1):.3f}",
        "final accuracy by sentences of others": " ".join(by_others),
        "prompt words ~ reasoning tokens": f"r = {np.corrcoef(words, lengths)[0, 1]:.2f}",
        "prompt words ~ windows needed": f"Spearman {spearmanr(words, needed).statistic:.2f}",
        "prompt words ~ final accuracy": f"r = {np.corrcoef(words, final)[0, 1]:.2f}",
    }
    for name, value in rows.items():
        print(f"{name:40}{value}")


if __name__ == "__main__":
    main()
