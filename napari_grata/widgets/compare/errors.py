"""What goes wrong in comparing."""


class CompareError(RuntimeError):
    """This viewer does not allow a way to compare; the message says which one does instead."""
