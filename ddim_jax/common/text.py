"""What files say, in messages."""


def shown(value: object, most: int = 200) -> str:
    """A value as Python writes it, in ASCII and cut at `most` characters: whatever a file holds, a terminal only prints it."""
    text = ascii(value)
    return text if len(text) <= most else f"{text[:most]}..."


def is_plain(name: str) -> bool:
    """Whether a name of a file's is one that messages can print as it is."""
    return name.isascii() and name.isprintable() and len(name) < 200
