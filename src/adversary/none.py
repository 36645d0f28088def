"""Images as they are."""


def none() -> None:
    return None
