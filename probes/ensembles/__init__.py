"""Ensembles: what several networks answer together, how sure they are and how far apart."""
