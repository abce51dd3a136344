#!/usr/bin/env python3
"""Makes a group picture of one portrait, and paints masks on half of its faces.

    make_group.py centerface.onnx astronaut.png FOLDER

Six prints of the portrait, each cut, mirrored and exposed differently. CenterFace finds the face and its
landmarks in the portrait, and a surgical mask is drawn by them over mouth and nose. `group.jpg` and the
portrait go into the folder; `truth.json` says of both, per face, the centre `[x, y]` in pixels and
whether it is masked. Nothing is random.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

# Pixels of the photo: left, top, right, bottom of the square that holds head and shoulders.
PORTRAIT = (98, 0, 354, 256)
# Pixels: a side of a print, and the border around each.
SIDE, BORDER = 320, 8
COLUMNS = 3
PAPER = (236, 233, 226)


@dataclass
class Print:
    """One print: how wide the cut is in face heights, and how it is mirrored and exposed."""

    width: float
    mirrored: bool
    brightness: float
    colour: float
    masked: bool


PRINTS = [
    Print(2.0, False, 1.00, 1.0, masked=False),
    Print(1.8, True, 1.08, 0.8, masked=True),
    Print(2.1, False, 0.85, 1.1, masked=True),
    Print(1.7, True, 0.92, 0.5, masked=False),
    Print(1.9, False, 1.10, 1.2, masked=True),
    Print(2.0, True, 0.80, 0.9, masked=False),
]


@dataclass
class Face:
    """A face in pixels: its box's centre and height, and eyes, nose and corners of the mouth [5, 2]."""

    centre: np.ndarray
    height: float
    landmarks: np.ndarray


def load_detector(path):
    """Loads CenterFace; its file declares shapes that its own graph contradicts, and they are enforced."""
    model = onnx.load(path)
    for tensor in (*model.graph.input, *model.graph.output):
        for dimension in tensor.type.tensor_type.shape.dim:
            dimension.Clear()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors; the file also has weights that nothing uses.
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def find_face(detector, picture):
    """Returns the most certain face in a picture with sides of multiples of 32."""
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)[None]
    heatmap, scale, offset, landmarks = detector.run(None, {detector.get_inputs()[0].name: pixels})
    row, column = np.unravel_index(heatmap[0, 0].argmax(), heatmap.shape[2:])
    height, width = 4 * np.exp(scale[0, :, row, column])
    y, x = 4 * (np.array([row, column]) + offset[0, :, row, column] + 0.5)
    # Five pairs of y and x, in sizes of the box, from its upper left corner.
    points = landmarks[0, :, row, column].reshape(5, 2)[:, ::-1] * [width, height] + [
        x - width / 2,
        y - height / 2,
    ]
    return Face(np.array([x, y]), float(height), points)


def develop(picture, face, style):
    """Makes one print; returns it and the face in its pixels."""
    width = style.width * face.height
    corner = np.clip(face.centre - width / 2, 0, np.array(picture.size) - width)
    scale = SIDE / width
    tile = picture.resize((SIDE, SIDE), Image.BICUBIC, box=(*corner, *(corner + width)))
    centre, landmarks = (face.centre - corner) * scale, (face.landmarks - corner) * scale
    if style.mirrored:
        tile = tile.transpose(Image.FLIP_LEFT_RIGHT)
        centre, landmarks = [SIDE, 0] + centre * [-1, 1], [SIDE, 0] + landmarks * [-1, 1]
        landmarks = landmarks[[1, 0, 2, 4, 3]]  # Left is right now.
    moved = Face(centre, face.height * scale, landmarks)
    if style.masked:
        tile = wear_mask(tile, moved)
    tile = ImageEnhance.Color(tile).enhance(style.colour)
    return ImageEnhance.Brightness(tile).enhance(style.brightness), moved


def wear_mask(tile, face):
    """Paints a surgical mask over mouth and nose."""
    smooth = 4  # Drawn this much larger, then scaled down: smooth edges.
    left_eye, right_eye, _, left_mouth, right_mouth = face.landmarks
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    across, down = right_eye - left_eye, mouth - eyes
    unit = smooth * float(np.hypot(*across))

    def points(*pairs):
        """Maps (across, down), measured from between the eyes in their distance and that to the mouth."""
        return [tuple(smooth * (eyes + a * across + d * down)) for a, d in pairs]

    def symmetric(*half):
        """Maps a line that begins on the axis of the face, and before it its mirror image."""
        return points(*((-a, d) for a, d in reversed(half)), *half)

    size = (tile.width * smooth, tile.height * smooth)
    mask = Image.new("RGBA", size, (163, 199, 217, 0))
    draw = ImageDraw.Draw(mask)
    for side in (-1, 1):  # Ear loops.
        for start, end in (((0.78, 0.56), (0.98, 0.30)), ((0.74, 1.22), (0.98, 0.62))):
            loop = points((side * start[0], start[1]), (side * end[0], end[1]))
            draw.line(loop, fill=(228, 232, 234, 255), width=round(0.04 * unit))
    top = [(0.0, 0.34), (0.26, 0.40), (0.52, 0.52), (0.80, 0.56)]
    chin = [(0.78, 1.20), (0.58, 1.56), (0.30, 1.80), (0.0, 1.86)]
    draw.polygon(symmetric(*top, *chin), fill=(163, 199, 217, 255))
    for depth in (0.80, 1.06, 1.32):
        pleat = symmetric((0.0, depth + 0.09), (0.4, depth + 0.07), (0.78, depth))
        draw.line(pleat, fill=(134, 172, 192, 255), width=round(0.035 * unit), joint="curve")
    seam = symmetric(*((a, d + 0.06) for a, d in top))
    draw.line(seam, fill=(205, 225, 234, 255), width=round(0.03 * unit), joint="curve")

    # Light falls off towards the sides of a face; flat colour would look pasted on.
    light = Image.new("L", size, 200)
    ImageDraw.Draw(light).polygon(symmetric((0.0, 0.5), (0.42, 0.62), (0.42, 1.3), (0.0, 1.62)), fill=255)
    light = light.filter(ImageFilter.GaussianBlur(0.22 * unit))
    shaded = ImageChops.multiply(mask.convert("RGB"), Image.merge("RGB", [light] * 3))
    shaded.putalpha(mask.getchannel("A").filter(ImageFilter.GaussianBlur(smooth / 2)))
    worn = tile.convert("RGBA")
    worn.alpha_composite(shaded.resize(tile.size, Image.LANCZOS))
    return worn.convert("RGB")


def main():
    detector, photo, folder = sys.argv[1:]
    photo, folder = Path(photo), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photo, folder / photo.name)
    picture = Image.open(photo).convert("RGB").crop(PORTRAIT)
    face = find_face(load_detector(detector), picture)

    step = SIDE + BORDER
    rows = -(-len(PRINTS) // COLUMNS)
    group = Image.new("RGB", (COLUMNS * step + BORDER, rows * step + BORDER), PAPER)
    faces = []
    for index, style in enumerate(PRINTS):
        tile, moved = develop(picture, face, style)
        corner = (BORDER + index % COLUMNS * step, BORDER + index // COLUMNS * step)
        group.paste(tile, corner)
        faces.append(describe(moved.centre + corner, style.masked))
    group.save(folder / "group.jpg", quality=92)

    truth = {photo.name: [describe(face.centre + PORTRAIT[:2], masked=False)], "group.jpg": faces}
    # Written last and at once: where it is, everything is.
    part = folder / "truth.json.part"
    part.write_text(json.dumps(truth, indent=1), encoding="utf-8")
    os.replace(part, folder / "truth.json")


def describe(centre, masked):
    return {"centre": [round(float(value), 1) for value in centre], "masked": masked}


if __name__ == "__main__":
    main()
