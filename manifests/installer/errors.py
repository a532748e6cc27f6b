"""What can go wrong, with what to do about it."""


class InstallError(Exception):
    """The installation cannot go on."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
