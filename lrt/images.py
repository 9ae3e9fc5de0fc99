"""Sizes of images, where something asks for one: a square, the image in its middle, nothing cut off; or a limit."""

from datasets import Dataset
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from lrt.world import CELL

GREY = (128, 128, 128)  # around an image that is no square: about what the model's processor makes of no signal


def on_square(image: Image.Image, side: int) -> Image.Image:
    """The image scaled to fit a square of `side` pixels, in its middle, on grey. One of that size stays as it is.

    ValueError for a side that the model's patches (14 pixels, merged two by two) do not divide.
    """
    if side < CELL or side % CELL:
        lower = max(CELL, side // CELL * CELL)
        raise ValueError(f"a side is a multiple of {CELL} pixels: {lower} or {lower + CELL}, not {side}")
    image = image.convert("RGB")
    if image.size == (side, side):
        return image
    scale = side / max(image.size)
    size = tuple(max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (side, side), GREY)
    square.paste(image.resize(size, Image.Resampling.BICUBIC), ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def within(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """The image as it is where Qwen's processor finds no more pixels in it, both sides rounded to whole cells; a larger
    one at the size that it would scale it to (`smart_resize` of transformers: the same shape as nearly as cells
    allow)."""
    if max_pixels is None or round(image.width / CELL) * round(image.height / CELL) * CELL**2 <= max_pixels:
        return image
    high, wide = smart_resize(image.height, image.width, factor=CELL, min_pixels=CELL**2, max_pixels=max_pixels)
    return image.convert("RGB").resize((wide, high), Image.Resampling.BICUBIC)


def one_size(pairs: Dataset, side: int | None) -> Dataset:
    """The same pairs, each image put on a square when its row is read; with None as they are."""
    if side is None:
        return pairs
    return pairs.with_transform(lambda batch: squared(batch, side))


def squared(batch: dict, side: int | None) -> dict:
    """A batch of rows with `images` put on squares, where it has such a column; with None as it is."""
    if side is None or "images" not in batch:
        return batch
    return {**batch, "images": [[on_square(image, side) for image in pair] for pair in batch["images"]]}
