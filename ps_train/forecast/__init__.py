"""Forecasts under way: accuracy and use for every later budget, given what a trace has shown so far."""
