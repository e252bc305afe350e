"""Predictors of accuracy curves: nets, LightningModules, data and metrics."""
