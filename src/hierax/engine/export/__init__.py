"""Models as files that run without hierax."""
