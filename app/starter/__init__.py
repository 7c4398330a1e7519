"""The model and the dataset shipped with the package; ``scripts/pour_starter.py`` makes both."""
