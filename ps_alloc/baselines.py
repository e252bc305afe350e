"""What a predictor must beat: allocations that know less, and one that knows everything but its own noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import check_curves, check_values, numbers, per_query, vector, whole
from ps_alloc._checks import curve as checked_curve
from ps_alloc._leftover import uniform_windows
from ps_alloc._problem import check_costs, check_limits
from ps_alloc.allocate import allocate
from ps_alloc.allocation import Allocation


def uniform(
    n_queries: int,
    total_tokens: int,
    *,
    window: int = 16,
    budgets: npt.ArrayLike | None = None,
    use: npt.ArrayLike | None = None,
    min_windows: npt.ArrayLike = 1,
    max_windows: npt.ArrayLike | None = None,
) -> Allocation:
    """The same number of windows for every query, as nearly as whole windows allow.

    Every query gets the highest common level the budget pays for (within its own minimum and maximum); the
    windows left over go one each to queries at evenly spaced places. At 72 mean tokens and 16 a window that
    is 64 for every second query and 80 for the others.

    Args:
        n_queries: N.
        total_tokens: Reasoning tokens for the whole batch.
        window: Tokens a window.
        budgets: (W,) tokens granted at each grid point, in place of whole windows.
        use: (W,) or (N, W) expected use, as for `allocate`: the level is the highest whose use can be paid.
        min_windows: Fewest windows a query gets, one number or (N,).
        max_windows: Most windows a query can use, one number or (N,): the curves' W. Budgets and use know it.

    Raises:
        ValueError: If an argument is out of range, or the budget cannot pay for every query's `min_windows`.
    """
    n_queries = whole("n_queries", n_queries, at_least=1)
    if budgets is not None or use is not None:
        grid = numbers("budgets", budgets) if budgets is not None else numbers("use", use)  # type: ignore[arg-type]
        largest = grid.shape[-1] if grid.ndim else 0
    elif max_windows is not None:
        largest = int(per_query("max_windows", max_windows, n_queries, low=0, high=2**31).max())
    else:
        raise ValueError("max_windows must be given where neither budgets nor use are, got none")
    costs = check_costs(n_queries, max(1, largest), window, budgets=budgets, use=use)
    costs.check_use()
    limits = check_limits(n_queries, max(1, largest), total_tokens, costs, min_windows, max_windows)
    windows = uniform_windows(limits)
    return limits.allocation(windows, "uniform", costs.of(windows))


def no_information_mix(
    mean_curve: npt.ArrayLike,
    n_queries: int,
    total_tokens: int,
    *,
    window: int = 16,
    budgets: npt.ArrayLike | None = None,
    use: npt.ArrayLike | None = None,
    min_windows: int = 1,
    rng: np.random.Generator,
) -> Allocation:
    """The best that can be done knowing only how accuracy grows on average: two budgets, dealt at random.

    Where the mean curve is not concave, a random share of queries with a large budget and little for the rest
    beats the same budget for all. Any predictor must beat this, not only uniform.

    Args:
        mean_curve: (W,) mean curve of the *training* questions.
        n_queries: N.
        total_tokens: Reasoning tokens for the whole batch.
        window: Tokens a window.
        budgets: (W,) tokens granted at each grid point, in place of whole windows.
        use: (W,) mean use of the training questions: what is charged.
        min_windows: Fewest windows a query gets.
        rng: Decides who gets the large budget.

    Raises:
        ValueError: If the mean curve is not (W,) values in [0, 1], or as `allocate` does.
    """
    curve = checked_curve("mean_curve", mean_curve)
    n_queries = whole("n_queries", n_queries, at_least=1)
    mix = allocate(
        np.repeat(curve[None], n_queries, axis=0),
        total_tokens,
        window=window,
        budgets=budgets,
        use=None if use is None else vector("use", use, size=curve.size, low=0.0),
        min_windows=min_windows,
    )
    dealt = rng.permutation(n_queries)
    return replace(
        mix,
        windows=mix.windows[dealt],
        method="mix",
        used=None if mix.used is None else mix.used[dealt],
    )


def noise_honest_oracle(
    curves: npt.ArrayLike,
    n_traces: npt.ArrayLike,
    total_tokens: int,
    *,
    window: int = 16,
    budgets: npt.ArrayLike | None = None,
    use: npt.ArrayLike | None = None,
    min_windows: npt.ArrayLike = 1,
    rng: np.random.Generator,
) -> Allocation:
    """Allocate on one resample of the measured curves, so that the oracle does not profit from measuring
    noise.

    An oracle that allocates on the very measurement it is scored on picks the windows whose noise is kindest.
    Here the noise is drawn anew (binomial, `n_traces` a query), the hull allocates on that, and
    `expected_accuracy` is the measurement's.

    Args:
        curves: (N, W) measured curves of the test questions.
        n_traces: Traces averaged into each curve, one number or (N,).
        total_tokens: Reasoning tokens for the whole batch.
        window: Tokens a window.
        budgets: (W,) tokens granted at each grid point, in place of whole windows.
        use: (W,) or (N, W) measured use, as for `allocate`.
        min_windows: Fewest windows a query gets, one number or (N,).
        rng: Draws the resample.

    Raises:
        ValueError: As `allocate`.
    """
    measured = check_curves(curves)
    check_values(measured)
    traces = per_query("n_traces", n_traces, len(measured), low=1, high=2**31)
    resample = rng.binomial(traces[:, None], measured.astype(np.float64)) / traces[:, None]
    # It knows when a further token would not help: what is left over stays unspent.
    oracle = allocate(
        resample,
        total_tokens,
        window=window,
        budgets=budgets,
        use=use,
        min_windows=min_windows,
        leftover="keep",
    )
    return replace(
        oracle, method="oracle", expected_accuracy=oracle.accuracy_on(measured), price=None, gap_bound=None
    )
