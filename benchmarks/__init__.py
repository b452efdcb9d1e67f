"""Figures of speed, each a ratio within one run: ``make bench``."""
