"""Texts to answers, answers to right or wrong."""
