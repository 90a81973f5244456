"""Slices: the loss along lines, in planes and on grids through the weights.

`directions` and `normalization` say where to go, `sweeping` goes there, `sweep` is what comes back;
`trajectory` is for the checkpoints of one run, `topology` for what a grid holds.
"""
