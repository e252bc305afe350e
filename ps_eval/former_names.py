"""Where the contents of this package's former modules are now."""

FORMER_NAMES: dict[str, tuple[str, ...]] = {
    "ps_eval.answers": ("ps_eval.grading", "ps_eval.grading.extraction"),
    "ps_eval.experiments.record": ("ps_eval.reporting.record", "ps_eval.reporting.tables"),
    "ps_eval.import_paper": ("ps_eval.measuring.import_paper",),
    "ps_eval.live": ("ps_eval.spending.live",),
    "ps_eval.plots": ("ps_eval.reporting.plots",),
    "ps_eval.policies": ("ps_eval.spending.policies",),
    "ps_eval.probing": ("ps_eval.measuring.probing",),
    "ps_eval.replay": ("ps_eval.spending.replay",),
    "ps_eval.report": ("ps_eval.reporting.report",),
    "ps_eval.run": ("ps_eval.spending.run",),
    "ps_eval.scoring": ("ps_eval.spending.scoring",),
    "ps_eval.statistics": ("ps_eval.reporting.statistics",),
    "ps_eval.summary": ("ps_eval.reporting.summary",),
    "ps_eval.trace": ("ps_eval.measuring.trace",),
    "ps_eval.trace_file": ("ps_eval.measuring.trace_file",),
}
