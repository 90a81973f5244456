"""Paths between solutions: barriers and matrices of them, curves, elastic bands, simplices.

`vertices` says which points lie on a path, `examples` evaluates them example by example.
"""
