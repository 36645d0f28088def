"""The test images as they are, and no others."""


def none() -> None:
    return None
