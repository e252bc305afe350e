"""What the gateway tells Prometheus, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

TOKENS = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192, 16384, 32768)
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
PREFIX = "ps_gateway"

OUTCOMES = {
    "ok": "answered",
    "rejected": "answered by the upstream with 4xx",
    "failed": "answered by the upstream with 5xx",
    "invalid": "400: malformed, or not servable in this mode",
    "denied": "403: the route is not open to clients",
    "limited": "429: the key has as many requests under way as it may",
    "too_large": "413",
    "slow_request": "408: the body did not arrive in time",
    "overloaded": "503: too many requests in flight",
    "unreachable": "502: no connection to the upstream, or it broke before the answer",
    "timeout": "504: no answer in time",
    "broken": "the upstream or the time-out broke a response that had begun",
    "disconnected": "the client went away",
    "defect": "500: a mistake in the gateway",
}
"""Values of the label `outcome`."""
FALLBACKS = {
    "unreadable": "no text in the request that the predictor can read",
    "follow_up": "a chat's messages are too short to be a question; the mean curve decides",
    "tool_turn": "a tool's result is to be read; the mean curve decides",
    "too_long": "the question is longer than the predictor may read; the mean curve decides",
    "timeout": "the prediction was not there in time",
    "overdue": "a batch takes longer than anybody waits: the predictor was not asked",
    "queue_full": "too many questions waited for the predictor",
    "error": "the predictor failed",
    "unlike": "the question is unlike those learned from, and --unlike is mean: the mean curve decides",
    "drift": "predictions do not hold any more; the mean curve decides",
}
"""Values of the label `reason`, and of the header `x-ps-fallback`."""


class GatewayMetrics:
    """The gateway's counters, gauges and histograms."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests ended.", "route", "outcome")
        self.fallbacks = self._counter(
            "fallbacks", "Requests whose budget no prediction of their own decided.", "reason"
        )
        self.over_budget = self._counter(
            "over_budget",
            "Responses whose usage reports more reasoning tokens than were granted: the upstream does not "
            "enforce budgets.",
        )
        self.unbudgeted = self._counter(
            "unbudgeted", "Requests that a model may think over and that went on without a budget.", "route"
        )
        self.thinking_off = self._counter("thinking_off", "Requests whose client wants no thinking.")
        self.empty_answers = self._counter(
            "empty_answers", "Responses whose tokens ran out before the first one of an answer.", "route"
        )
        self.uncounted = self._counter(
            "uncounted_reasoning",
            "Responses whose usage reports 0 reasoning tokens beside generated ones, or none: all count.",
        )
        self.unlike = self._counter(
            "unlike_questions", "Questions unlike those that the predictor learned from."
        )
        self.limited = self._counter(
            "client_limited", "Requests whose client's own limit decided: they give no credit."
        )
        self.explored = self._counter("explored", "Requests granted the largest budget to explore.")
        self.explored_tokens = self._counter("explored_tokens", "Tokens granted beyond the priced budget.")
        self.decisions_lost = self._counter("decisions_lost", "Lines that the decision log could not take.")
        self.granted = self._histogram("granted_tokens", "Budget a sequence, in tokens.", TOKENS)
        self.reasoning = self._histogram(
            "reasoning_tokens", "Reasoning tokens a sequence really used, where usage tells.", TOKENS
        )
        self.prediction_seconds = self._histogram("prediction_seconds", "One batch's prediction.", SECONDS)
        self.prediction_batch = self._histogram(
            "prediction_batch_size", "Questions predicted together.", (1, 2, 4, 8, 16, 32, 64, 128, 256)
        )
        self.upstream_seconds = self._histogram(
            "upstream_seconds", "From sending a request on to the end of its response.", SECONDS
        )
        self.first_answer_seconds = self._histogram(
            "first_answer_seconds", "From sending a stream's request on to its answer's first chunk.", SECONDS
        )
        self.in_flight = self._gauge("in_flight", "Requests under way.")
        self.unread_bodies = self._gauge("unread_bodies", "Requests whose body is still to come.")
        self.predictor_queue = self._gauge("predictor_queue", "Questions that wait for the predictor.")
        self.predictor_overdue = self._gauge(
            "predictor_overdue", "1 while a batch takes longer than anybody waits."
        )
        self.enforced = self._gauge("enforced", "Whether the upstream obeys budgets: 1, 0, or -1: not known.")
        self.enforced.set(-1)
        self.draining = self._gauge("draining", "1 from a stop signal on.")
        self.lane_price = self._gauge("lane_price", "Price of a model's rule or of a named key.", "lane")
        self.lane_mean = self._gauge(
            "lane_paced_tokens_mean", "Mean tokens of a model's rule or of a named key.", "lane"
        )
        self.lane_target = self._gauge(
            "lane_target_tokens",
            "Tokens a request that are held, of a model's rule or of a named key.",
            "lane",
        )
        self.price = self._gauge("price", "Correct answers a token must buy at present.")
        self.paced_mean = self._gauge("paced_tokens_mean", "Mean tokens a request so far, as paced.")
        self.calibration_use = self._gauge(
            "calibration_use_ratio", "Tokens used over those predicted, of the last requests.", "lane"
        )
        self.calibration_finished = self._gauge(
            "calibration_finished_gap",
            "Share of the last requests that ended within their budget, minus the share predicted to.",
            "lane",
        )
        self.drifted = self._gauge("drifted", "1 while a lane's predictions do not hold.", "lane")
        self.reloads = self._counter("reloads", "Reloads: taken, refused as worse, failed.", "outcome")
        self.priced_mean = self._gauge(
            "priced_tokens_mean", "Mean tokens since the start of those requests that may move the price."
        )

    def predicted(self, size: int, seconds: float) -> None:
        """A batch of predictions was made."""
        self.prediction_batch.observe(size)
        self.prediction_seconds.observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, buckets=buckets, registry=self.registry)
