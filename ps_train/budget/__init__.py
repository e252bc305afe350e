"""The budget model: the reasoning tokens a query needs, its data, targets and metrics."""
