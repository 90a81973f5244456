"""Subset runs: networks on random subsets, and from them memorization, influence, LiRA."""
