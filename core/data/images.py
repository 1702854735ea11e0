"""Opening one image file as RGB; unusual pixel formats are handled here and nowhere else.

* Palette, alpha, gray, CMYK, YCbCr: Pillow's own conversion to RGB, as in the published few-shot
  code. Alpha is dropped, not blended: a transparent pixel shows the color stored under it.
* 16-bit gray is scaled to 8 bits. (Pillow's conversion clips instead, which turns such images
  white.) For 16-bit color, Pillow gives the upper 8 bits.
* 32-bit integer and floating-point images have no defined white level: they are refused.
* EXIF orientation is ignored, as in the published code; of an animation, the first frame is used.
* A truncated or broken file raises an error that names it; it is never filled with gray or skipped.
  The suffix is ignored: a PNG named .jpg is a PNG.
"""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

Image.preinit()  # register the common formats now, not from several decoding threads at once


def open_rgb(path: Path) -> Image.Image:
    """The image of a file in mode RGB, fully decoded, with the file closed.

    Raises ValueError naming the file if it is missing, is not an image, is truncated or has an
    unsupported depth.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(image)
    except FileNotFoundError as error:
        raise ValueError(f"image {path} does not exist; was it moved after listing?") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"image {path} is not in a format that Pillow can read; replace it"
        ) from error
    except Exception as error:  # a damaged file raises almost anything, depending on its format
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"image {path} cannot be read ({what}); replace it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"pixel mode {image.mode!r} has no defined white level; save it with 8 or 16 bits"
        )
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA").convert("RGB")  # same pixels, without Pillow's warning
    return image.convert("RGB")
