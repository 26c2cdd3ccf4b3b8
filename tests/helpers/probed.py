"""What doctor's probe says of torch on a machine without a GPU."""

TORCH: dict[str, object] = {
    "kind": "torch",
    "version": "2.14.1",
    "gpus": [],
    "why_none": "",
    "cpu_precision": "bfloat16",
    "weights_url": "http://127.0.0.1:9/resnet50.pth",
    "has_weights": True,
}
