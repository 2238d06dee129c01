"""Text on pictures, by Pillow."""

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST = 9.0  # pixels; a smaller text cannot be read


def fitting_font(text: str, width: float, largest: float) -> Font:
    """Return Pillow's own font at the size at which a text fits, as far as it can be read then.

    Args:
        text: One line.
        width: The pixels that it may take; hinting can make it a few wider.
        largest: The font size in pixels where there is room enough.

    >>> round(fitting_font("Ada Lovelace", width=100, largest=20).size)
    16
    """
    font = ImageFont.load_default(largest)
    size = max(SMALLEST, largest * min(1.0, width / max(1.0, font.getlength(text))))
    return ImageFont.load_default(size)
