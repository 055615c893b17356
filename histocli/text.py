"""Text from files that other people made."""


def printable(text: str) -> str:
    """Return a text on one line, with control characters escaped: those of terminals, and those that hide text."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
