"""Speed and accuracy beside the peers, all in one run: `python -m benchmarks --list`.

`timing` takes turns and measures memory, `environment` says on what, `problems` holds networks and
data, `peers` the other libraries; `products` and `eigenvalues` are the benchmarks.
"""
