#!/usr/bin/env python3
"""Reference predictions: what the models of `examples/models` say about some photos.

The tests of the gateway (`gateway/server/tests/it/truth.rs`) compare its answers with `reference.json`, which this program wrote.
It shares no code with Hearth: pictures are decoded and resized by Pillow, the models run in
ONNX Runtime, and the heads are decoded here, plainly.

Run it by hand, when a manifest changes:

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install numpy onnxruntime Pillow
    /tmp/reference/bin/python reference.py MODELS_DIR MEDIA_DIR > reference.json

`reference.json` holds `files` (the model's file in MODELS_DIR, by the manifest it belongs to) and
`cases`: one per model and picture, best prediction first. Boxes are `[x1, y1, x2, y2]` in pixels
of the upright picture, clipped to it. Detections below MIN_SCORE are left out.

What is done to a picture, where it is a matter of choice:
  - It is turned upright by its EXIF orientation, and is RGB without alpha.
  - Resizing is bilinear with antialiasing: the filter grows with the scale.
  - Letterbox: each side of the body is rounded to the nearest pixel, and boxes are mapped back by
    each side's own scale.
  - Native: the longer side is scaled down to 1280 where it is more, then both sides are stretched
    to the next multiple of 32.
  - A location gives one detection, of its best class. NMS is per class, greedy, before clipping.
  - A crop is the clipped box, grown by the margin on each side and clipped again, in fractions of
    pixels.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MIN_SCORE = 0.25
"""Tests compare from 0.4 on; what is weaker shows how near the others are."""

COCO = (Path(__file__).parents[4] / "examples/models/yolox-nano/coco.names").read_text().splitlines()

FILES = {
    "yolox-nano": "yolox_nano_416_dyn.onnx",
    "fastestdet": "fastestdet_352_dyn.onnx",
    "rfb640-mask": "rfb640_masked_face_dyn.onnx",
    "centerface": "centerface_dyn.onnx",
    "mask-classifier": "mask_cls_mobilenetv2_224_nhwc.onnx",
    "efficientnet-lite0": "efficientnet_lite0.onnx",
}

COCO_PHOTOS = ["bus.jpg", "zidane.jpg", "yolox_dog.jpg"]
FACE_PHOTOS = ["imgs_10.jpg", "masked_face_imgs_img2.jpeg", "masked_face_imgs_img3.jpg"]
FREE_PHOTOS = ["astronaut.png", "chelsea.png", "coffee.png"]

CASES = {
    "yolox-nano": COCO_PHOTOS + FREE_PHOTOS,
    "fastestdet": COCO_PHOTOS,
    "rfb640-mask": [*FACE_PHOTOS, "bus.jpg"],
    "centerface": FACE_PHOTOS,
    "face-mask": FACE_PHOTOS,
    "efficientnet-lite0": FREE_PHOTOS,
}


# === pictures ===


def upright(path):
    """The picture at `path`, RGB, turned as its EXIF orientation says."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def nearest(pixels):
    return max(1, math.floor(pixels + 0.5))


def letterbox(picture, size, pad):
    """The picture at the top left of `size`, and its scale in x and y."""
    ratio = min(size[0] / picture.width, size[1] / picture.height)
    body = picture.resize((nearest(picture.width * ratio), nearest(picture.height * ratio)), Image.BILINEAR)
    canvas = Image.new("RGB", size, (pad, pad, pad))
    canvas.paste(body)
    return canvas, np.array(body.size) / picture.size


def native_size(picture, multiple=32, longest=1280):
    ratio = min(1, longest / max(picture.size))
    return tuple(math.ceil(nearest(side * ratio) / multiple) * multiple for side in picture.size)


def planes(picture, mean=0.0, std=1.0, bgr=False):
    """`[1, 3, height, width]`, of `(x - mean) / std`."""
    pixels = np.asarray(picture, np.float32)
    pixels = pixels[:, :, ::-1] if bgr else pixels
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None], np.float32)


# === heads ===


def corners(centers, sizes):
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], -1)


def iou(box, boxes):
    overlap = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = overlap.clip(0).prod(-1)
    area = (box[2:] - box[:2]).prod()
    return intersection / (area + (boxes[:, 2:] - boxes[:, :2]).prod(-1) - intersection)


def detections(boxes, scores, labels, max_iou, picture):
    """Detections from `boxes [N, 4]` in pixels of the picture and `scores [N, classes]`."""
    classes, scores = scores.argmax(-1), scores.max(-1)
    order = [n for n in np.argsort(-scores, kind="stable") if scores[n] >= MIN_SCORE]
    kept = []
    for n in order:
        rivals = [k for k in kept if classes[k] == classes[n]]
        if not rivals or iou(boxes[n], boxes[rivals]).max() <= max_iou:
            kept.append(n)
    limits = np.array(picture.size * 2)
    return [
        {"label": labels[classes[n]], "score": round(float(scores[n]), 4), "box": boxes[n].clip(0, limits).tolist()}
        for n in kept
    ]


class Models:
    def __init__(self, folder):
        self.folder, self.sessions = Path(folder), {}

    def run(self, name, tensor):
        if name not in self.sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            self.sessions[name] = onnxruntime.InferenceSession(
                self.folder / FILES[name], options, providers=["CPUExecutionProvider"]
            )
        session = self.sessions[name]
        return session.run(None, {session.get_inputs()[0].name: tensor})

    def yolox_nano(self, picture):
        canvas, scale = letterbox(picture, (416, 416), pad=114)
        (output,) = self.run("yolox-nano", planes(canvas, bgr=True))
        grids = []
        for stride in (8, 16, 32):
            rows, columns = np.mgrid[: 416 // stride, : 416 // stride]
            grids.append(np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3))
        grid, stride = np.split(np.concatenate(grids), [2], -1)
        boxes = corners((output[0, :, :2] + grid) * stride, np.exp(output[0, :, 2:4]) * stride)
        scores = output[0, :, 4:5] * output[0, :, 5:]
        return detections(boxes / np.tile(scale, 2), scores, COCO, 0.45, picture)

    def fastestdet(self, picture):
        resized = picture.resize((352, 352), Image.BILINEAR)
        output = self.run("fastestdet", planes(resized, std=255, bgr=True))[0][0].transpose(1, 2, 0)
        rows, columns = np.mgrid[: output.shape[0], : output.shape[1]]
        centers = (np.stack([columns, rows], -1) + np.tanh(output[..., 1:3])) / output.shape[1::-1]
        boxes = corners(centers, 1 / (1 + np.exp(-output[..., 3:5]))) * (picture.size * 2)
        scores = output[..., :1] ** 0.6 * output[..., 5:] ** 0.4
        return detections(boxes.reshape(-1, 4), scores.reshape(-1, len(COCO)), COCO, 0.45, picture)

    def rfb640_mask(self, picture):
        resized = picture.resize((640, 480), Image.BILINEAR)
        scores, boxes = self.run("rfb640-mask", planes(resized, mean=127, std=128))
        return detections(boxes[0] * (picture.size * 2), scores[0, :, 1:], ["face", "masked"], 0.45, picture)

    def centerface(self, picture):
        resized = picture.resize(native_size(picture), Image.BILINEAR)
        heat, sizes, offsets, _ = self.run("centerface", planes(resized))
        heat = heat[0, 0]
        rows, columns = np.mgrid[: heat.shape[0], : heat.shape[1]]
        # The network says y before x.
        centers = (np.stack([columns, rows], -1) + offsets[0, ::-1].transpose(1, 2, 0) + 0.5) * 4
        boxes = corners(centers, np.exp(sizes[0, ::-1].transpose(1, 2, 0)) * 4)
        boxes = boxes.reshape(-1, 4) / np.tile(np.array(resized.size) / picture.size, 2)
        return detections(boxes, heat.reshape(-1, 1), ["face"], 0.3, picture)

    def face_mask(self, picture, margin=0.1):
        faces = self.centerface(picture)
        crops = []
        for face in faces:
            low, high = np.split(np.array(face["box"]), 2)
            grown = np.concatenate([low - (high - low) * margin, high + (high - low) * margin])
            crops.append(picture.resize((224, 224), Image.BILINEAR, box=grown.clip(0, picture.size * 2)))
        batch = np.stack([np.asarray(crop, np.float32) for crop in crops]) / 127.5 - 1
        for face, (masked, unmasked) in zip(faces, self.run("mask-classifier", batch)[0], strict=True):
            face["label"] = "masked" if masked >= unmasked else "unmasked"
            face["label_score"] = round(float(max(masked, unmasked)), 4)
        return faces

    def efficientnet_lite0(self, picture):
        resized = picture.resize((224, 224), Image.BILINEAR)
        logits = self.run("efficientnet-lite0", planes(resized, mean=127, std=128))[0][0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        return [{"label": str(n), "score": round(float(scores[n]), 4)} for n in np.argsort(-scores)[:5]]


# === output ===


def line(prediction):
    """One prediction as JSON, its box to hundredths of a pixel."""
    if "box" in prediction:
        prediction = prediction | {"box": [round(side, 2) for side in prediction["box"]]}
    return json.dumps(prediction)


def main(models_dir, media_dir):
    models, cases = Models(models_dir), []
    for model, names in CASES.items():
        predict = getattr(models, model.replace("-", "_"))
        for name in names:
            picture = upright(Path(media_dir, name))
            case = {
                "case": f"{model} on {name}",
                "model": model,
                "picture": name,
                "width": picture.width,
                "height": picture.height,
            }
            # One prediction a line, so that a change can be read in a diff.
            lines = ",\n".join("      " + line(each) for each in predict(picture))
            cases.append(f'    {json.dumps(case)[:-1]}, "detections": [\n{lines}\n    ]}}')
    print(f'{{\n  "files": {json.dumps(FILES)},\n  "cases": [\n' + ",\n".join(cases) + "\n  ]\n}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODELS_DIR MEDIA_DIR > reference.json")
    main(*sys.argv[1:])
