"""Compiled code, and nothing but: loops that check nothing. What calls them has checked their input.

N queries, W grid points ("windows"), R rows that stand for some or all queries. `settings` is one tuple,
always in this order: `least`, `most` (fewest and most windows), `weight` (what a correct answer is worth),
`base` (value at zero windows), `rate` (a factor on the grid's costs), `grid` ((W + 1,) costs of 0 .. W
windows). The first five have one element, shared by all queries, or N; kernels read them through `access`
alone, so neither shape can take a way of its own. Costs are whole units (docs/allocation.md).
"""
