"""Predict one photo with torch, torchvision and Pillow alone: python plain_predict.py MODEL_FILE PHOTO."""

import json
import sys

import torch
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.models import resnet50

MODEL_FILE, PHOTO = sys.argv[1:]

content = torch.load(MODEL_FILE, map_location="cpu", weights_only=True)
pose_ids = content["class_mapping"]["classes"]
model = resnet50(num_classes=len(pose_ids))
model.load_state_dict(content["model_state_dict"])
model.eval()

size, (mean, std) = (
    content["preprocessing"]["image_size"],
    (content["preprocessing"][k] for k in ("mean", "std")),
)
prepare = transforms.Compose(
    [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(mean, std)]
)
image = ImageOps.exif_transpose(Image.open(PHOTO)).convert("RGB")
with torch.inference_mode():
    logits = model(prepare(image)[None])[0]
probabilities, classes = torch.softmax(logits / content["temperature"], dim=0).topk(3)
answer = [
    {"id": int(pose_ids[index]), "name": content["pose_names"][pose_ids[index]], "probability": probability}
    for probability, index in zip(probabilities.tolist(), classes.tolist(), strict=True)
]
print(json.dumps(answer))
