"""Why a command can't go on, as one sentence."""


class CannotStart(Exception):
    """The message is one sentence for the operator: what is wrong and how to mend it. Ends the process with 1."""
