"""Sentences about Cuvée that can be false."""
