"""Predicts an image with a model/ folder, torch, timm and safetensors alone: python load_model.py MODEL_DIR IMAGE"""

import json
import sys
from pathlib import Path

import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision.transforms.v2 import InterpolationMode, functional

facts = json.loads(Path(sys.argv[1], "model.json").read_bytes())
targets, head = ("class", "labels", "numbers"), facts.get("head", "linear")
if facts["outputs"] != len(facts["classes"]) or facts["target"] not in targets or head != "linear":
    sys.exit("This script is for a linear head with one number a class or target; load others with src.predictor.")
weights, spec, plain = load_file(Path(sys.argv[1], "weights.safetensors")), facts["input"], facts["timm"]
parts = ("backbone.", "frozen.")[: 1 + facts.get("frozen", False)]
nets = [timm.create_model(plain["architecture"], **plain["options"]).eval() for _ in parts]
for part, net in zip(parts, nets, strict=True):
    net.load_state_dict({k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)})
mean, std = (torch.tensor(spec[key])[:, None, None] for key in ("mean", "std"))
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)  # what is transparent is white
x = functional.pil_to_tensor(image.convert("RGB" if len(mean) == 3 else "L"))
size, (h, w), (high, wide), fill = spec["size"], spec["size"], x.shape[1:], (255 * mean).round()
scales = {"pad": min(h / high, w / wide), "crop": max(int(h / spec["crop"]) / high, int(w / spec["crop"]) / wide)}
if scale := scales.get(facts["resize"]):  # pad: the rest is the mean; crop: a margin is cut off; squash: neither
    size = [max(round(n * scale), 1 if facts["resize"] == "pad" else m) for n, m in ((high, h), (wide, w))]
x = functional.resize(x, size, InterpolationMode(spec["interpolation"]), antialias=True)
x = (((functional.center_crop(x - fill, [h, w]) + fill) / 255 - mean) / std)[None]
x = torch.cat([x, x.flip(3)]) if facts["mirror"] else x
seen = [] if facts["stages"] and plain["stages"] is not None else [net(x) for net in nets]
for net in nets if not seen else ():  # the last features, then of each stage class token, mean and deviation
    last, stages = net.forward_intermediates(x, **plain["stages"])
    seen += [net.forward_head(last, pre_logits=True)]
    for grid, *tokens in (stage if isinstance(stage, tuple) else (stage,) for stage in stages):
        seen += [t[:, 0] for t in tokens] + [grid.flatten(2).mean(2), grid.flatten(2).std(2, correction=0)]
x = torch.cat(seen, 1) @ weights["head.weight"].T + weights["head.bias"]
fitted = (facts.get("calibration") or {}).get("scaling") or {"shift": 0.0, "factor": 1.0}
shift, factor = map(torch.tensor, facts["unit"] or (fitted["shift"], fitted["factor"]))
x = x.mean(0) * factor + shift
said = {"class": x.softmax(0), "labels": x.sigmoid()}.get(facts["target"], x)
print(json.dumps(dict(zip(facts["classes"], said.tolist(), strict=True))))
