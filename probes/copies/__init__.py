"""Copies of one network: which objects and augmentations they all find hard, and by chance."""
