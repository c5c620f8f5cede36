"""Helpers that know nothing of networks: checks, files, the cache, Ctrl-C, entry points. No torch."""
