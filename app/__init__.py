"""Cuvée: the API that pours synthetic wine, and the core that it shares with the worker."""

__version__ = "0.1.0"
