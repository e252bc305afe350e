"""Would it pay? Samples or a curve table, cross-validated: what predicted budgets would bring."""
