"""Checks against other people's programs, run by hand: they need builds that the repository does not hold."""
