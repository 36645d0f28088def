"""Reads one image file, of any mode, as uint8 (C, H, W); every failure is a DataError with the path and a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from src.contracts import DataError, File

EXTENSIONS = frozenset(
    f".{name}"
    for name in ("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff")
    + ("ppm", "pgm", "pbm", "pnm", "avif", "jp2", "npy")
)

# A list of what is allowed, since Pillow would also open EPS, for which it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\0 ftypavif")
_ORIENTATION = 0x0112  # the EXIF tag; its values are in the EXIF 2.3 standard, 4.6.4
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Refused(Exception):
    """The reason, as the user reads it."""


def read(path: File, channels: int) -> torch.Tensor:
    """-> uint8 (channels, H, W), upright, the first frame; channels: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.

    For 1 and 3 channels, what is transparent is shown on white. 16-bit grey is divided by 257 (65535 -> 255), floats
    of 0..1 are multiplied by 255. A .npy array, (H, W) or (H, W, C) of uint8, uint16, or float in 0..1, may have any
    number of channels, but must have `channels`. The memory is channels-last, which torchvision resizes fastest.
    Raises DataError with the path and the reason.
    """
    return torch.from_numpy(_decode(path, channels)).permute(2, 0, 1)


def given(image: Image.Image | np.ndarray, channels: int, name: str) -> torch.Tensor:
    """What `read` gives, of a picture or an array that is in memory; an array is as one of a .npy file.

    Raises DataError with `name` and the reason.
    """
    try:
        if isinstance(image, Image.Image):
            _check_size(*image.size)
            array = _shown(image, channels)
        elif isinstance(image, np.ndarray):
            array = _checked(image, channels)
        else:
            raise _Refused(f"a {type(image).__name__} is no PIL image, array or path")
    except _Refused as refused:
        raise DataError(f"{name}: {refused}") from None
    except (OSError, SyntaxError, ValueError) as error:  # a picture that was opened but is decoded only now
        raise DataError(f"{name}: truncated or damaged ({error})") from error
    return torch.from_numpy(array).permute(2, 0, 1)


def probe(path: File, channels: int) -> None:
    """Raises DataError where `read` would, but sooner: a JPEG is decoded at an eighth of its size.

    Its stream is still read to the end, so that a truncated file is found.
    """
    _decode(path, channels, small=True)


def size_of(path: File) -> tuple[int, int] | None:
    """(width, height) as the image is shown, from its header; None where that cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            height, width = _array(path).shape[:2]
            return width, height
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)  # Pillow turns it
            return (image.height, image.width) if turned else image.size
    except Exception:  # Pillow's decoders raise nearly every type on damaged input; `read` says what is wrong
        return None


def brightest(path: File) -> int | None:
    """The largest value of an image of 16 bits; None of others, and of one that cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            array = _array(path)
        else:
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                array = np.asarray(image) if image.mode.startswith("I") else np.empty(0, np.uint8)
    except Exception:  # as in `size_of`
        return None
    return int(array.max()) if array.dtype.kind in "iu" and array.dtype.itemsize > 1 and array.size else None


def _decode(path: File, channels: int, small: bool = False) -> np.ndarray:
    with _named(path):
        if path.suffix.lower() == ".npy":
            return _checked(_array(path), channels)
        return _from_picture(path, channels, small)


@contextmanager
def _named(path: File) -> Iterator[None]:
    try:
        yield
    except _Refused as refused:
        raise DataError(f"{path}: {refused}") from None
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged input
        raise DataError(f"{path}: {_reason(path, error)}") from error


def _from_picture(path: File, channels: int, small: bool) -> np.ndarray:
    # An open file, since of a path Pillow 13 maps the pixels, and then garbles TIFFs of orientation 5 to 8.
    with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        _check_size(*image.size)
        if small:
            image.draft("L", (1, 1))  # JPEG only; other formats do nothing here
        return _shown(image, channels)


def _shown(image: Image.Image, channels: int) -> np.ndarray:
    if channels not in _MODES:
        raise _Refused(f"a picture cannot give {channels} channels; save (H, W, {channels}) arrays as .npy")
    image.load()  # first, since a TIFF turns itself upright here and then forgets its orientation
    upright = _upright(image)
    # np.array copies: a tensor must be writable, and Pillow only hands out read-only memory.
    return np.array(_convert(upright, _MODES[channels])).reshape(upright.height, upright.width, channels)


def _check_size(width: int, height: int) -> None:
    # Pillow warns above this number and raises above twice as many; a warning in a worker process is seen by nobody.
    if width * height > (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise _Refused(f"{width}x{height} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} allowed; scale it down")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing of the pixels, which are already decoded
        return image
    return image if turn is None else image.transpose(turn)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # I;16, I;16B, I, F: Pillow itself would clip them to white
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if mode in ("L", "RGB") and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _checked(array: np.ndarray, channels: int) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or 0 in array.shape:
        found = f"shape {array.shape}" if isinstance(array, np.ndarray) else "an .npz archive"
        raise _Refused(f"needs an array of (H, W) or (H, W, C), but is {found}")
    array = array if array.ndim == 3 else array[:, :, None]
    if array.shape[2] != channels:
        raise _Refused(f"has {array.shape[2]} channels (shape {array.shape}), but the model takes {channels}")
    if array.dtype.kind != "f" and array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise _Refused(f"is of {array.dtype}; save it as uint8, uint16, or float in 0..1")
    _check_size(array.shape[1], array.shape[0])
    return np.array(_eight_bits(array), order="C")


def _array(path: File) -> np.ndarray:
    if isinstance(path, Path):
        return np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a lying header cannot fill the memory
    with path.open("rb") as file:  # of a piece nothing can be mapped; what its header lies is not there to be read
        return np.load(file, allow_pickle=False)


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """uint8 as it is; other integers are 16-bit values, 0..65535; floats are 0..1. Both are rounded."""
    if array.dtype == np.uint8:
        return array
    low, high, top = array.min(), array.max(), 1 if array.dtype.kind == "f" else 65535
    if not (low >= 0 and high <= top):  # written so that NaN is refused too
        raise _Refused(f"has values from {low:g} to {high:g}; {array.dtype} must be in 0..{top}")
    if top == 1:
        return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _reason(path: File, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than the {Image.MAX_IMAGE_PIXELS:,} pixels allowed; scale it down"
    if (head := _first_bytes(path)) == b"":
        return "empty file (0 bytes)"
    if isinstance(error, UnidentifiedImageError) and not head.startswith(_SIGNATURES):
        heic = head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif")
        start = repr(head)[1:]
        return "HEIC, which is not supported; convert it to JPEG" if heic else f"not an image (it starts with {start})"
    text = str(error).split("\n")[0]
    if any(word in text.lower() for word in ("truncated", "unexpected end", "not enough", "mmap length")):
        return "truncated"
    return f"truncated or damaged ({type(error).__name__ if path.name in text or not text else text})"


def _first_bytes(path: File) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16).rstrip()
    except OSError:
        return b"?"
