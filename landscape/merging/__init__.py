"""Merging: one network from several: averages, soups, task vectors; REPAIR of what it breaks."""
