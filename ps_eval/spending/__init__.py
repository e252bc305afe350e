"""Budgets to answers: policies, live runs, replays."""
