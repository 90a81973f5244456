"""Alignment: networks that differ by the order of their units, brought onto one another.

`symmetries` reads off a trace of a network which axes move together, `aligning` finds the order
for two networks, `joint` for many.
"""
