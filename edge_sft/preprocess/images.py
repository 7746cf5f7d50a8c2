"""Geometry of a picture: raw frame → fixed-size uint8 RGB tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_sft.errors import BugError, DataError, DeviceError
from edge_sft.preprocess.jpeg import SCALES, JpegHeader, jpeg_header
from edge_sft.preprocess.sizing import LIMIT_BYTES, require_decodable

if TYPE_CHECKING:
    from pathlib import Path


class IgnoreBox(BaseModel):
    """A rectangle to paint mid-grey before the model looks, in fractions of the region of interest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: float = Field(ge=0, lt=1)
    top: float = Field(ge=0, lt=1)
    right: float = Field(gt=0, le=1)
    bottom: float = Field(gt=0, le=1)


# With tiles, they are multiples of this long and begin at multiples of it: cells of all maps, up to a stride of 32,
# then coincide.
TILE_STEP = 32


class Tiles(BaseModel):
    """How a large picture is cut into tiles of the model's size.

    ``overlap`` is in pixels of a tile and should be larger than the smallest defect; ``scale`` shrinks the picture
    before it is cut (1 = every pixel counts).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap: int = Field(default=32, ge=0, le=1024)
    scale: float = Field(default=1.0, gt=0, le=1)


class Preprocess(BaseModel):
    """What `image_tensor` does to a frame; frozen, part of the checkpoint and the bundle.

    ``roi`` is (left, top, right, bottom) in fractions of the frame. ``fit`` says what happens to the aspect
    ratio: ``stretch`` ignores it, ``pad`` keeps it with grey borders, ``crop`` keeps it and cuts the edges.
    ``depth_range`` maps 16-bit frames linearly to 0–255; without it the full 0–65535 is used. With ``tiles`` height
    and width are a tile's, and ``fit`` has no effect. ``mm_per_pixel`` is the frame's, for marks in millimetres.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    height: int = Field(ge=16, le=2048)
    width: int = Field(ge=16, le=2048)
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    roi: tuple[float, float, float, float] | None = None
    ignore: tuple[IgnoreBox, ...] = ()
    grey: bool = False
    depth_range: tuple[int, int] | None = None
    tiles: Tiles | None = None
    mm_per_pixel: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        if self.roi is not None:
            left, top, right, bottom = self.roi
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(
                    "roi must be [left, top, right, bottom] with 0 ≤ left < right ≤ 1, 0 ≤ top < bottom ≤ 1"
                )
        if self.depth_range is not None and self.depth_range[0] >= self.depth_range[1]:
            raise ValueError("depth_range must be [low, high] with low < high")
        if any(box.left >= box.right or box.top >= box.bottom for box in self.ignore):
            raise ValueError("an ignore box needs left < right and top < bottom")
        if self.tiles is not None:
            if 2 * self.tiles.overlap > min(self.height, self.width):
                raise ValueError("tiles.overlap must be at most half of a tile")
            if self.height % TILE_STEP or self.width % TILE_STEP:
                raise ValueError(f"with tiles, size must be a multiple of {TILE_STEP}")
        return self


_GREY = 127  # the value that normalises to zero in (x − 127) / 128


def image_tensor(frame: NDArray[Any], spec: Preprocess) -> NDArray[np.uint8]:
    """Turn a raw frame into the model's input.

    Args:
        frame: uint8 or uint16, [H, W], [H, W, 1] or [H, W, 3] RGB (a fourth channel is dropped).
        spec: Geometry to apply.

    Returns:
        uint8 [spec.height, spec.width, 3] RGB, C-contiguous.

    Raises:
        DataError: Empty frame, unsupported dtype or number of channels.
    """
    if spec.tiles is not None:
        raise BugError("image_tensor", "was given a picture that is cut into tiles", "Please report it.")
    return finished(fitted(region(frame, spec), spec))


def region(frame: NDArray[Any], spec: Preprocess) -> NDArray[np.uint8]:
    """Cut the region of interest out of a frame, eight bits, [H, W] or [H, W, 3]; the first half of `image_tensor`."""
    import cv2

    image = _colour_or_grey(_eight_bits(frame, spec.depth_range))
    if spec.roi is not None:
        image = _cut(image, spec.roi)
    if spec.ignore:
        image = image.copy()
        for box in spec.ignore:
            _cut(image, (box.left, box.top, box.right, box.bottom))[...] = _GREY
    if spec.grey and image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    return image


def finished(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image [H, W] or [H, W, 3] as the model takes it: three channels, C-contiguous."""
    import cv2

    if image.ndim == 2:  # grey goes through the geometry as one channel, a third of the work
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    return np.ascontiguousarray(image, dtype=np.uint8)


def read_image(path: Path) -> NDArray[Any]:
    """Decode a picture file to a raw frame, uint8 or uint16, [H, W] or [H, W, 3] RGB.

    Raises:
        DataError: The file is missing, empty, truncated or no picture that OpenCV decodes.
    """
    return decode_image(read_encoded(path), source=str(path))


def read_tensor(path: Path, spec: Preprocess) -> NDArray[np.uint8]:
    """Turn a picture file into the model's input; see `encoded_tensor`. Raises DataError as `read_image` does."""
    return encoded_tensor(read_encoded(path), spec, source=str(path))


def encoded_tensor(content: bytes, spec: Preprocess, *, source: str) -> NDArray[np.uint8]:
    """Turn an encoded picture into the model's input, uint8 [spec.height, spec.width, 3] RGB.

    As `image_tensor` of `decode_image`, but a JPEG larger than needed is shrunk while it is decoded: on the same
    pixels the two differ by rounding (0.3 grey levels on average, 3 at most, on photographs of 5 megapixels).

    Raises:
        DataError: No picture that OpenCV decodes.
    """
    return image_tensor(decode_for(content, spec, source=source)[0], spec)


def decode_for(content: bytes, spec: Preprocess, *, source: str) -> tuple[NDArray[Any], tuple[int, int]]:
    """Decode a picture no larger than a model needs it; also return the (height, width) that it has.

    Raises:
        DataError: No picture that OpenCV decodes.
    """
    header = jpeg_header(content)
    scale = 1 if header is None else _decoding_scale(header, spec)
    grey = header is not None and header.components == 1
    frame = decode_image(content, source=source, scale=scale, grey=grey)
    if scale == 1 or header is None:
        return frame, (frame.shape[0], frame.shape[1])
    # a header may count rows and columns before the picture is turned: the frame tells which way it lies
    height, width = min(header.sizes, key=lambda size: abs(size[0] / size[1] - frame.shape[0] / frame.shape[1]))
    return frame, (int(height), int(width))


def read_encoded(path: Path) -> bytes:
    """Read a picture file as it is. Raises DataError when it cannot be read or is too long to be a picture."""
    try:
        length = path.stat().st_size
        if length <= 2 * LIMIT_BYTES:
            return path.read_bytes()  # cv2.imread cannot open non-ASCII paths on Windows
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror or error})", "Check the file.") from error
    fact = f"is {length / 2**20:,.0f} MiB long; at most {2 * LIMIT_BYTES // 2**20:,} MiB are read"
    raise DataError(str(path), fact, "Cut the picture into parts or scale it down.")


def _decoding_scale(header: JpegHeader, spec: Preprocess) -> int:
    """Return 1, 2, 4 or 8: by how much the decoder may shrink so that the region of interest still fills the tile."""
    if header.components not in (1, 3):
        return 1
    left, top, right, bottom = spec.roi or (0.0, 0.0, 1.0, 1.0)
    ratios = []
    rows: float
    columns: float
    for height, width in header.sizes:
        inside = (bottom - top) * height, (right - left) * width
        if spec.tiles is None:
            rows, columns = fitted_size(*inside, spec)
        else:
            rows, columns = max(1.0, inside[0] * spec.tiles.scale), max(1.0, inside[1] * spec.tiles.scale)
        ratios.append(min(inside[0] / rows, inside[1] / columns))
    return next((scale for scale in SCALES if scale <= min(ratios)), 1)


def decode_image(
    content: NDArray[np.uint8] | bytes, *, source: str, scale: int = 1, grey: bool = False
) -> NDArray[Any]:
    """Decode an encoded picture held in memory; see `read_image`.

    ``scale`` 2, 4 or 8 shrinks while decoding (JPEG); ``grey`` says that such a picture has one channel.
    """
    import cv2

    content = content if isinstance(content, bytes) else content.tobytes()
    if not content:
        raise DataError(source, "is an empty file", "Take the picture again or remove it.")
    require_decodable(content, source=source)
    buffer = np.frombuffer(content, dtype=np.uint8)
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    if scale != 1:
        flags = getattr(cv2, f"IMREAD_REDUCED_{'GRAYSCALE' if grey else 'COLOR'}_{scale}")
    try:
        image = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise DataError(source, f"cannot be decoded ({error.err})", "Take the picture again or remove it.") from error
    if image is None:
        raise DataError(source, "is not a readable picture (damaged or unknown format)", "Replace or remove it.")
    result: NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 else image
    return result


def require_opencv() -> None:
    """Fail early and in words where OpenCV is missing. Raises DeviceError."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise DeviceError(
            "OpenCV", f"is not usable here ({error})", "pip install 'edge-sft[vision]' (on Jetson: the system's cv2)."
        ) from error


def _eight_bits(frame: NDArray[Any], depth_range: tuple[int, int] | None) -> NDArray[np.uint8]:
    if frame.ndim not in (2, 3) or 0 in frame.shape:
        raise DataError("frame", f"has shape {frame.shape}", "A frame is [H, W] or [H, W, 3].")
    if frame.dtype == np.uint8:
        return np.asarray(frame, dtype=np.uint8)
    if frame.dtype != np.uint16:
        raise DataError("frame", f"has dtype {frame.dtype}", "Frames are uint8 or uint16.")
    low, high = depth_range or (0, 65535)
    scaled = (frame.astype(np.float32) - low) * (255.0 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8), dtype=np.uint8)


def _colour_or_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return [H, W] or [H, W, 3]."""
    if image.ndim == 2:
        return image
    if image.shape[2] == 1:
        return image[:, :, 0]
    if image.shape[2] in (3, 4):
        return image[:, :, :3]
    raise DataError("frame", f"has {image.shape[2]} channels", "Frames have 1, 3 or 4.")


def _cut(image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    left, top, right, bottom = region_box(image.shape[0], image.shape[1], box)
    return image[top:bottom, left:right]


def region_box(height: int, width: int, box: tuple[float, float, float, float] | None) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in pixels of a box in fractions; of None the whole."""
    if box is None:
        return 0, 0, width, height
    left, top = int(box[0] * width), int(box[1] * height)
    return left, top, max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))


def fitted(image: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """Bring a region of interest to the model's size, as `Preprocess.fit` says."""
    height, width = image.shape[:2]
    if spec.fit == "stretch":
        return resized(image, spec.width, spec.height)
    new_height, new_width = fitted_size(height, width, spec)
    image = resized(image, new_width, new_height)
    if spec.fit == "crop":
        top, left = (new_height - spec.height) // 2, (new_width - spec.width) // 2
        return image[top : top + spec.height, left : left + spec.width]
    canvas = np.full((spec.height, spec.width, *image.shape[2:]), _GREY, dtype=np.uint8)
    top, left = (spec.height - new_height) // 2, (spec.width - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = image
    return canvas


def fitted_size(height: float, width: float, spec: Preprocess) -> tuple[int, int]:
    """Return height and width to which a picture of this size is resized."""
    if spec.fit == "stretch":
        return spec.height, spec.width
    choose = min if spec.fit == "pad" else max
    scale = choose(spec.width / width, spec.height / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Area average down, bilinear up. A picture at least twice too large is first averaged by a whole factor, which
    OpenCV does several times faster than a broken one; what remains to do is then small."""
    import cv2

    if image.shape[:2] == (height, width):
        return image
    image = np.ascontiguousarray(image)
    factor = min(image.shape[0] // height, image.shape[1] // width)
    if factor >= 2:
        down, right = -image.shape[0] % factor, -image.shape[1] % factor
        if down or right:  # the last row or column again: nothing at the edge may be lost
            image = np.asarray(cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8)
        size = image.shape[1] // factor, image.shape[0] // factor
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        if size == (width, height):
            return image
    shrinking = image.shape[0] >= height and image.shape[1] >= width
    how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)
