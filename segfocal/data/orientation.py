"""How an image file is to be turned, from its header alone."""

import struct
from typing import BinaryIO

from PIL import Image

_ORIENTATION = 274  # TIFF and EXIF tag; 5 to 8 turn the picture by a quarter
_SIGNATURE = 8  # bytes of a PNG before its first chunk


def orientation(header: Image.Image) -> int:
    """The EXIF orientation of an image that has been opened and not decoded, 1 to 8; 1 is upright.

    Pillow decodes a PNG to find out whether EXIF data follow its pixels: 37 ms for 2048 x 1024. Here they are sought
    from chunk to chunk instead.

    Example:
        >>> orientation(Image.new("RGB", (4, 3)))
        1
    """
    if header.format != "PNG" or "exif" in header.info:
        return int(header.getexif().get(_ORIENTATION, 1))
    if (late := _exif_chunk(header.fp)) is not None:  # type: ignore[attr-defined]
        header.info["exif"] = b"Exif\x00\x00" + late  # where Pillow keeps what comes before the pixels
    return int(Image.Image.getexif(header).get(_ORIENTATION, 1))


def _exif_chunk(file: BinaryIO) -> bytes | None:
    place = file.tell()
    try:
        file.seek(_SIGNATURE)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(length)
            file.seek(length + 4, 1)  # its checksum too
        return None
    finally:
        file.seek(place)
