"""Exchange: slices out of and into other programs.

`vtkhdf` and `vts` write for ParaView, `tables` for pandas and NumPy, all from what `grid` makes of
a stored sweep; `tomgoldstein` reads the surfaces of tomgoldstein/loss-landscape.
"""
