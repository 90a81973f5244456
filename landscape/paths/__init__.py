"""Paths between solutions: barriers, curves, elastic bands, simplices; alignment and repair.

Nothing is imported here: each page says what it holds.
"""
