"""Files of samples to samples that are ready: with texts, grades and tokens, by task, model and setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ps_eval.logs.assume import assume_right
from ps_eval.logs.questions import add_questions, count_tokens, grade, load_known_questions
from ps_eval.logs.read import Reading, read_samples
from ps_eval.logs.sample import Sample

Group = tuple[tuple[str, str], ...]

MANY_TWICE = 0.6
"""Where no larger share of the samples differs from all others, a log is likely there twice."""


@dataclass(frozen=True)
class Prepared:
    """Samples of each group, and what was said and done on the way."""

    reading: Reading
    groups: dict[Group, list[Sample]]
    notes: list[str]


def prepare(
    files: Sequence[str],
    *,
    questions: str | None = None,
    columns: Sequence[str] = (),
    where: Sequence[str] = (),
    numbers: Sequence[str] = (),
    grader: str = "math",
    tokenizer: str | None = None,
    right: float | None = None,
) -> Prepared:
    """Read, complete and sort samples; the settings are those of `ps-eval import-samples`.

    Raises:
        ValueError: If nothing can be read, no sample is left, or something is missing that is not said.
    """
    known = None if questions is None else load_known_questions(questions)
    reading = read_samples(files, columns=pairs(columns, "columns"), numbers=numbers)
    notes = []
    samples = select(reading, where)
    if known is not None:
        unknown = add_questions(samples, known)
        if unknown == len(samples):
            raise ValueError(
                f"{questions} must have the samples' questions by id, such as {samples[0].question_id!r}, "
                f"got ids such as {next(iter(known))!r}"
            )
        if unknown:
            notes.append(f"{unknown} samples are of questions that {questions} does not have: left out")
            samples = [sample for sample in samples if sample.question_id in known]
    if counted := count_tokens(samples, tokenizer):
        notes.append(f"{counted} samples counted with the tokenizer {tokenizer}")
    if graded := grade(samples, grader):
        notes.append(f"{graded} samples graded by {grader}")
    groups: dict[Group, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    for group, mine in groups.items():
        name = f"{describe(group)}: " if len(groups) > 1 else ""
        try:
            assumed = assume_right(mine, right)
        except ValueError as error:
            raise ValueError(f"{name}{error}") from None
        if assumed:
            notes.append(name + assumed)
    return Prepared(reading, groups, [*notes, *_doubts(reading, samples)])


def _doubts(reading: Reading, samples: Sequence[Sample]) -> Iterator[str]:
    """What may be otherwise than it is taken to be."""
    if reading.n_unnamed > 1:
        yield (
            f"{reading.n_unnamed} files do not name their model: their samples are taken for one model's; of "
            "several models, give the files one by one"
        )
    texts: dict[tuple[Group, str], set[str]] = {}
    for sample in samples:
        words = " ".join(sample.question.casefold().split())
        texts.setdefault((sample.group, sample.question_id), set()).add(words)
    if mixed := sum(len(each) > 1 for each in texts.values()):
        yield (
            f"{mixed} question ids stand beside different texts, of which the first is read: where these are "
            "different questions, name what tells them apart, such as --columns task=NAME"
        )
    different = {(s.group, s.question_id, s.sample, s.tokens, s.correct, s.finished) for s in samples}
    if len(different) <= MANY_TWICE * len(samples):
        yield (
            f"{len(samples) - len(different)} of {len(samples)} samples repeat another in all that is read: "
            "where a log is given twice, leave one out"
        )
    if nothing := sum(sample.tokens == 0 for sample in samples):
        yield f"{nothing} samples took 0 tokens: where that means that nobody counted, leave them out"
    if cut := [sample.tokens for sample in samples if not sample.finished]:
        yield (
            f"{len(cut)} of {len(samples)} samples were cut, at {min(cut):,} to {max(cut):,} tokens: that "
            "they need more is all that is known"
        )


def select(reading: Reading, where: Sequence[str]) -> list[Sample]:
    """The samples of the task, model or setting that is asked for.

    Raises:
        ValueError: If there are none.
    """
    wanted = pairs(where, "where")
    samples = [s for s in reading.samples if all(dict(s.group).get(k) == v for k, v in wanted.items())]
    if not samples:
        there = "; ".join(describe(group) for group in list(reading.groups())[:12])
        raise ValueError(f"where must name samples that are there ({there}), got {', '.join(where)}")
    return samples


def pairs(items: Sequence[str], what: str) -> dict[str, str]:
    """`NAME=VALUE` items as a dictionary.

    Raises:
        ValueError: If an item has no `=`.
    """
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ValueError(f"{what} must be NAME=VALUE, got {item!r}")
        found[name.strip()] = value.strip()
    return found


def describe(group: Group) -> str:
    """A group as `--where` takes it."""
    return ",".join(f"{role}={text}" for role, text in group) or "samples"
