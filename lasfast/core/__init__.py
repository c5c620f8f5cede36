"""Helpers that know nothing of networks: argument checks, atomic files, Ctrl-C, entry points. No torch."""
