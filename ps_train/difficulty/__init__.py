"""Easy, medium or hard: the difficulty classifier, its labels and metrics."""
