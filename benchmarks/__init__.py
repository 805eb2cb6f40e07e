"""Measurements of the dispatch engine beside its peers; run them with `make bench`."""
