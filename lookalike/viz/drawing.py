"""TODO lookalike.viz.drawing."""

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def fitting_font(text: str, width: float, largest: float) -> Font:
    """Pillow's own font at a size at which the text is no wider than `width`, but readable."""
    font = ImageFont.load_default(largest)
    size = max(9.0, largest * min(1.0, width / max(1.0, font.getlength(text))))
    return ImageFont.load_default(size)
