"""Policies as logic: formulas over claims, the finite domain of each claim, and the solver.

A language's reader turns a document into a :mod:`formula`. Every question that a formula asks of a claim is a
:class:`formula.Test`; from all tests on one claim :mod:`space` makes a finite set of values in which every
combination of answers that any value can give occurs, so that what holds for the set holds for all values.
"""
