"""The contest of stopping rules as it is read: tables, sentences, claims and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from ps_eval.experiments.stopping_contest import AGREE, BEFORE, FITTED, STEP, SURE, Compared
from ps_eval.reporting.frontier import EqualUse
from ps_eval.reporting.record import Claim, curve_plot
from ps_eval.reporting.tables import DASH, Cell, ResultTable, beside, interval, number, percent


def accuracy_table(world: str, compared: Compared) -> ResultTable:
    """Mean tokens used at equal accuracy, a row a rule."""
    levels, cells = _grid(compared.points, compared.at_accuracy, _tokens)
    return ResultTable(
        f"{world}: mean tokens used (probes charged) at equal accuracy; saved against {BEFORE}, in %, "
        "with 95% intervals over questions",
        ["rule", *(f"{percent(level)}%" for level in levels)],
        [[rule, *mine] for rule, mine in zip(compared.points, cells, strict=True)],
    )


def use_table(world: str, compared: Compared) -> ResultTable:
    """Accuracy at equal tokens used, a row a rule."""
    levels, cells = _grid(compared.points, compared.at_use, _accuracy)
    return ResultTable(
        f"{world}: accuracy in % at equal tokens used; gain over {BEFORE} in points, with 95% intervals",
        ["rule", *(f"{level:.0f} tokens" for level in levels)],
        [[rule, *mine] for rule, mine in zip(compared.points, cells, strict=True)],
    )


def inputs_table(world: str, compared: Compared, losses: Mapping[str, float], main: str) -> ResultTable:
    """What a forecaster's inputs are worth: its loss, and the tokens that the one-step rule then uses.

    Args:
        world: Its name.
        compared: With the one-step rule on forecasters of the other inputs.
        losses: Names of inputs to the forecaster's loss on questions held out.
        main: The inputs of the forecaster that the rules ask.
    """
    names = [STEP if inputs == main else inputs for inputs in losses]
    levels, cells = _grid(names, compared.at_accuracy, lambda row: _tokens(row, SURE))
    rows = [
        [inputs, number(loss, ".3f", "loss"), *mine]
        for (inputs, loss), mine in zip(losses.items(), cells, strict=True)
    ]
    return ResultTable(
        f"{world}: the one-step rule by what its forecaster reads: its loss on questions held out, tokens "
        f"used at equal accuracy; saved against {SURE}, in %, with 95% intervals",
        ["inputs", "loss", *(f"{percent(level)}%" for level in levels)],
        rows,
    )


def _grid(
    rules: Iterable[str], found: Sequence[EqualUse], show: Callable[[EqualUse], Cell]
) -> tuple[list[float], list[list[Cell]]]:
    """The levels compared at, and a row of cells a rule."""
    levels = sorted({row.used for row in found})
    cells = {(row.policy, row.used): show(row) for row in found}
    return levels, [[cells.get((rule, level), DASH) for level in levels] for rule in rules]


def _tokens(row: EqualUse, reference: str = BEFORE) -> Cell:
    """Tokens used, and how much less that is than a reference's, in % with its interval."""
    tokens = Cell(f"{row.accuracy:.1f}", tokens=row.accuracy)
    if reference not in row.gains:
        return tokens
    saved, low, high = (100 * share for share in _saved(row, reference))
    text = f"{saved:+.0f} [{low:+.0f}, {high:+.0f}]"
    return beside(tokens, Cell(text, saved=saved, saved_low=low, saved_high=high))


def _accuracy(row: EqualUse) -> Cell:
    """Accuracy, and what it gains over before the run, in points with its interval."""
    accuracy = percent(row.accuracy)
    return beside(accuracy, interval(*row.gains[BEFORE])) if BEFORE in row.gains else accuracy


def _saved(row: EqualUse, reference: str) -> tuple[float, float, float]:
    """Share of a reference's tokens that a rule saves at one accuracy, and its interval."""
    more, low, high = row.gains[reference]
    theirs = row.accuracy - more
    return -more / theirs, -high / theirs, -low / theirs


def savings(compared: Compared, rule: str, reference: str) -> list[tuple[float, float, float]]:
    """Shares of a reference's tokens that a rule saves, with intervals, at each accuracy that both reach."""
    rows = (row for row in compared.at_accuracy if row.policy == rule and reference in row.gains)
    return [_saved(row, reference) for row in rows]


def finding(world: str, compared: Compared) -> str:
    """What the figures say, a sentence a pair of rules."""
    full = compared.full
    parts = [
        f"{world}: run to the end, {percent(full.scores.mean())}% with {full.used.mean():.0f} tokens, "
        f"{percent(compared.wasted, 0)}% of them after the answer stands."
    ]
    for rule, reference in ((STEP, BEFORE), (STEP, AGREE), (STEP, SURE), (FITTED, BEFORE), (SURE, BEFORE)):
        if found := savings(compared, rule, reference):
            low, high = (100 * f(saved for saved, _, _ in found) for f in (min, max))
            parts.append(
                f"{rule} saves {low:+.0f} to {high:+.0f}% of the tokens of {reference} at equal accuracy, "
                f"{_shown(found, '%')}."
            )
    if gains := _gains(compared):
        parts.append(f"{STEP} gains at equal tokens, over {BEFORE}, {_points(gains)}.")
    return " ".join(parts)


def _gains(compared: Compared) -> list[tuple[float, float, float]]:
    """What the one-step rule gains over before the run at equal tokens, with intervals."""
    rows = (row for row in compared.at_use if row.policy == STEP and BEFORE in row.gains)
    return [(gain, low, high) for gain, low, high in (row.gains[BEFORE] for row in rows)]


def _points(gains: Sequence[tuple[float, float, float]]) -> str:
    least, most = min(gain for gain, _, _ in gains), max(gain for gain, _, _ in gains)
    return f"{100 * least:+.1f} to {100 * most:+.1f} points, {_shown(gains, ' points', 1)}"


def _shown(gains: Sequence[tuple[float, float, float]], unit: str, digits: int = 0) -> str:
    """What the intervals of gains show: a gain, a loss, or how large a difference they leave room for."""
    gained, lost = sum(low > 0 for _, low, _ in gains), sum(high < 0 for _, _, high in gains)
    low, high = min(100 * low for _, low, _ in gains), max(100 * high for _, _, high in gains)
    if gained == len(gains):
        return f"more than {low:.{digits}f}{unit} at each of {gained} levels"
    if gained or lost:
        gain, loss = f"a gain is shown at {gained}", f"a loss is shown at {lost}"
        return f"{' and '.join([gain] * (gained > 0) + [loss] * (lost > 0))} of {len(gains)} levels"
    return (
        f"no difference is shown: all {len(gains)} intervals hold 0, and leave room for a loss of up to "
        f"{-low:.{digits}f}{unit} and a gain of up to {high:.{digits}f}{unit}"
    )


def goal_claims(world: str, compared: Compared, goals: Mapping[str, float]) -> list[Claim]:
    """Goals of tokens saved, each held to its worst level of accuracy.

    Args:
        world: Its name.
        compared: What was measured.
        goals: Reference to the share of its tokens that the one-step rule is to save.
    """
    claims = []
    for reference, wanted in goals.items():
        found = savings(compared, STEP, reference)
        saved = [share for share, _, _ in found]
        met = sum(share >= wanted for share in saved)
        least, most = min(saved, default=0.0), max(saved, default=0.0)
        claims.append(
            Claim(
                f"In the world {world}, forecasts under way bring at least {100 * wanted:.0f}% fewer tokens "
                f"than {reference} at equal accuracy",
                "Goal set before measuring",
                f"{100 * least:.0f} to {100 * most:.0f}% fewer tokens; met at {met} of {len(saved)} levels",
                "holds" if saved and met == len(saved) else "does not hold",
            )
        )
    return claims


def no_loss_claim(world: str, compared: Compared) -> Claim:
    """Where a trace shows nothing that is not known before, forecasts are to lose nothing."""
    gains = _gains(compared)
    return Claim(
        f"In the world {world}, forecasts under way lose nothing against {BEFORE} at equal tokens",
        "Goal set before measuring",
        _points(gains) if gains else "nothing to compare",
        "holds" if gains and all(high >= 0 for _, _, high in gains) else "does not hold",
    )


def lines(compared: Compared) -> Figure:
    """Accuracy against tokens used, a line a rule."""
    shown = {}
    for name, line in compared.points.items():
        places = sorted((float(p.used.mean()), 100 * float(p.scores.mean())) for p in line)
        shown[name] = [use for use, _ in places], [score for _, score in places]
    return curve_plot(shown, xlabel="tokens used per query, probes included", ylabel="accuracy, %")
