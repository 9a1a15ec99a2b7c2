"""The two kinds of failure: a `UserError` is one clear line for a person; anything else is a bug."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class ArtifactError(UserError):
    """An artifact that is incomplete, altered or of an unknown kind."""


class SessionError(UserError):
    """A misuse of a Session or Model: empty append, unknown token id, full context, use after close."""


class RoomError(SessionError):
    """A pass over several lanes for which there is no room; with fewer lanes there may be."""


class UnavailableError(UserError):
    """A runtime, device or package that this machine does not offer; says how to get it."""
