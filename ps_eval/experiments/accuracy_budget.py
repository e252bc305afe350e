"""Policies × budgets on measured curves: the main table, tight budgets, and the high-budget inversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ps_eval.experiments.policy_rows import Contest, Rows, tokens_saved
from ps_eval.experiments.settings import ContestSettings
from ps_eval.reporting.record import Claim, Outcome, line_plot
from ps_eval.reporting.summary import SummaryRow
from ps_eval.reporting.tables import DASH, Cell, ResultTable, beside, gain_text, number, percent, points

PAPER = "Predictive Scheduling (arXiv 2602.01237)"
NOT_LEARNED = ("uniform", "oracle", "honest_oracle")


def accuracy_budget(settings: ContestSettings, *, scratch: Path) -> Outcome:
    """Accuracy, gain, share of the oracle's gain and tokens saved, by policy and budget.

    Args:
        settings: The contest.
        scratch: Where trained predictors are kept.
    """
    budgets = settings.budgets
    rows = _rows(settings, scratch)
    policies = list(dict.fromkeys(policy for policy, _ in rows))
    learned = [policy for policy in policies if policy not in NOT_LEARNED]
    uniform = [rows["uniform", budget].accuracy for budget in budgets]

    def share(row: SummaryRow) -> Cell:
        closed = _share_of_oracle(row, rows["honest_oracle", row.budget])
        return DASH if closed is None else Cell(f"{100 * closed:.0f}%", share=closed)

    def saved(row: SummaryRow) -> Cell:
        tokens = tokens_saved(budgets, uniform, row)
        if tokens is None:
            return Cell(f"> {budgets[-1] - row.budget}", at_least=budgets[-1] - row.budget)
        return number(tokens, "+.0f", "tokens")

    def table(title: str, shown: Sequence[str], cell: Callable[[SummaryRow], Cell]) -> ResultTable:
        return _table(title, "mean tokens per query", shown, rows, budgets, cell)

    best = max((rows[p, b] for p in learned for b in budgets), key=lambda row: row.gain or 0.0)
    finding = (
        f"The largest gain over uniform is {points(best.gain or 0)} points, by {best.policy} at "
        f"{best.budget} mean tokens, where uniform would need {saved(best)} tokens a query on top for that."
    )
    return Outcome(
        [
            table("Accuracy, %", policies, lambda row: percent(row.accuracy)),
            table("Gain over uniform, points [95% paired bootstrap over questions]", policies[1:], gain_text),
            table("Share of the noise-honest oracle's gain", learned, share),
            table("Tokens a query that uniform would need on top, for the same accuracy", learned, saved),
        ],
        finding,
        {"gain": _gain_plot(rows, [p for p in policies[1:] if not p.endswith("myopic")], budgets)},
        [_gain_claim(rows, learned), _oracle_claim(rows, learned, budgets)],
    )


def tight_budget(settings: ContestSettings, *, scratch: Path) -> Outcome:
    """Gains at small budgets, with and without a first window for every query; see `accuracy_budget`."""
    budgets = settings.budgets
    contest = Contest.of(settings, scratch)
    rows: Rows = {}
    for least in (1, 0):
        found = contest.rows(budgets, min_windows=least, seed=settings.seed, n_resamples=settings.n_resamples)
        rows |= {
            (f"{policy}, at least {least}", budget): row
            for (policy, budget), row in found.items()
            if policy != "oracle"
        }
    policies = list(dict.fromkeys(policy for policy, _ in rows))
    at = 32 if 32 in budgets else budgets[len(budgets) // 2]
    gains = {p: rows[p, at].gain or 0.0 for p in policies}
    best = max((p for p in policies if not p.startswith(("mix", "honest"))), key=gains.__getitem__)
    mix = max((p for p in policies if p.startswith("mix")), key=gains.__getitem__)
    finding = (
        f"At {at} tokens the best policy that looks at the question is {best} windows: "
        f"{points(gains[best])} points over uniform, beside {points(gains[mix])} without a look ({mix})."
    )
    table = _table(
        "Accuracy, % (gain over uniform in points), by the fewest windows a query gets",
        *("policy, fewest windows", policies, rows, budgets),
        lambda row: beside(percent(row.accuracy), gain_text(row)),
    )
    shown = [p for p in policies if not p.startswith(("uniform", "honest"))]
    return Outcome([table], finding, {"gain": _gain_plot(rows, shown, budgets)})


def inversion(settings: ContestSettings, *, scratch: Path) -> Outcome:
    """Myopic and hull greedy on the same predictions, from tight budgets to ample; see `accuracy_budget`."""
    budgets, predictors = settings.budgets, settings.predictors
    rows = _rows(settings, scratch)
    shown = [f"{name}, {method}" for name in predictors for method in ("myopic", "hull")]
    worst = {p: min(rows[p, b].gain or 0.0 for b in budgets) for p in shown}
    # Below uniform beyond doubt: the whole interval is.
    below = {p: sum((rows[p, b].gain_high or 0.0) < 0 for b in budgets) for p in shown}
    finding = "On the same predictions: " + "; ".join(
        f"{p} is {points(worst[p])} points at worst, clearly below uniform at {below[p]} of {len(budgets)}"
        for p in shown
    )
    myopic, hull = ([p for p in shown if p.endswith(method)] for method in ("myopic", "hull"))
    cured = any(below[p] for p in myopic) and not any(below[p] for p in hull)
    claim = Claim(
        "At high budgets adaptive allocation falls below uniform",
        PAPER,
        f"worst cell of myopic greedy {points(min(worst[p] for p in myopic))}, of hull greedy "
        f"{points(min(worst[p] for p in hull))} points, on the same predictions",
        "holds only if" if cured else "holds" if any(below[p] for p in hull) else "does not hold",
    )
    table = _table("Gain over uniform, points [95%]", "policy", shown, rows, budgets, gain_text)
    return Outcome([table], f"{finding} budgets.", {"gain": _gain_plot(rows, shown, budgets)}, [claim])


def _rows(settings: ContestSettings, scratch: Path) -> Rows:
    contest = Contest.of(settings, scratch)
    return contest.rows(settings.budgets, seed=settings.seed, n_resamples=settings.n_resamples)


def _table(
    title: str,
    first: str,
    policies: Sequence[str],
    rows: Rows,
    budgets: Sequence[int],
    cell: Callable[[SummaryRow], Cell],
) -> ResultTable:
    return ResultTable.by_budget(title, first, policies, budgets, lambda p, b: cell(rows[p, b]))


def _gain_plot(rows: Rows, policies: Sequence[str], budgets: Sequence[int]) -> Figure:
    return line_plot(
        {p: [100 * (rows[p, b].gain or 0.0) for b in budgets] for p in policies},
        budgets,
        xlabel="mean tokens per query",
        ylabel="gain over uniform, points",
        zero_line=True,
    )


def _share_of_oracle(row: SummaryRow, oracle: SummaryRow) -> float | None:
    """None where the oracle has nothing to gain beyond a tenth of a point."""
    possible = oracle.gain or 0.0
    return (row.gain or 0.0) / possible if possible > 1e-3 else None


def _gain_claim(rows: Rows, learned: Sequence[str]) -> Claim:
    cells = [row for (policy, _), row in rows.items() if policy in learned]
    best = max(cells, key=lambda row: row.gain or 0.0)
    papers = max((row for row in cells if row.policy.endswith("myopic")), key=lambda row: row.gain or 0.0)
    return Claim(
        "+7.9 points over uniform at equal tokens",
        PAPER,
        f"{points(papers.gain or 0)} at {papers.budget} tokens by its allocator ({papers.policy}), "
        f"{points(best.gain or 0)} at {best.budget} by {best.policy}",
        "holds" if (best.gain or 0.0) >= 0.079 else "does not hold",
    )


def _oracle_claim(rows: Rows, learned: Sequence[str], budgets: Sequence[int]) -> Claim:
    shares = {
        (policy, budget): closed
        for policy in learned
        for budget in budgets
        if (closed := _share_of_oracle(rows[policy, budget], rows["honest_oracle", budget])) is not None
    }
    if not shares:
        raise ValueError(f"budgets must leave the oracle something to gain, got {list(budgets)}")
    above = sorted({budget for (_, budget), closed in shares.items() if closed > 0.5})
    policy, budget = max(shares, key=shares.__getitem__)
    return Claim(
        "More than half of the gap to the oracle is closed",
        PAPER,
        f"at most {100 * shares[policy, budget]:.0f}% ({policy}, {budget} tokens); above half at "
        f"{', '.join(map(str, above)) or 'no'} mean tokens",
        "holds" if {b for _, b in shares} == set(above) else "holds only if" if above else "does not hold",
    )
