"""The one error class of this package."""


class QwenError(ValueError):
    """Something the user gave us is wrong. The message is one sentence: what is wrong and what to do about it."""
