"""Names of what is published: autoencoders, encoders and the collection of single files."""

AUTOENCODERS = (
    "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08",
    "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08-i512",
    "nyu-visionx/RAE-dinov2-wReg-small-ViTXL-n08",
    "nyu-visionx/RAE-dinov2-wReg-large-ViTXL-n08",
    "nyu-visionx/RAE-siglip2-base-p16-i256-ViTXL-n08",
    "nyu-visionx/RAE-mae-base-p16-ViTXL-n08",
    "stabilityai/sd-vae-ft-mse",
    "stabilityai/sdxl-vae",
    "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers",
    "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers",
    "mit-han-lab/dc-ae-f32c32-mix-1.0-diffusers",
    "mit-han-lab/dc-ae-f64c128-in-1.0-diffusers",
    "mit-han-lab/dc-ae-f64c128-mix-1.0-diffusers",
    "mit-han-lab/dc-ae-f128c512-in-1.0-diffusers",
    "mit-han-lab/dc-ae-f128c512-mix-1.0-diffusers",
)
"""Folders that diffusers wrote."""

ENCODERS = (
    "facebook/dinov2-with-registers-small",
    "facebook/dinov2-with-registers-base",
    "facebook/dinov2-with-registers-large",
    "facebook/dinov2-with-registers-giant",
    "facebook/dinov2-small",
    "facebook/dinov2-base",
    "facebook/dinov2-large",
    "facebook/dinov2-giant",
    "google/siglip2-base-patch16-256",
    "google/siglip2-large-patch16-256",
    "google/siglip2-so400m-patch16-256",
    "google/siglip2-giant-opt-patch16-256",
    "facebook/vit-mae-base",
    "facebook/vit-mae-large",
    "facebook/vit-mae-huge",
)
"""Folders that transformers wrote."""

COLLECTION = "nyu-visionx/RAE-collections"
"""Files of torch.save: `decoders/<encoder>/.../model.pt`, `stats/.../stat.pt`,
`DiTs/.../stage2_model.pt`, `discs/dino_vit_small_patch8_224.pth`."""

REPOSITORIES = (*AUTOENCODERS, *ENCODERS, COLLECTION)
"""All of them."""
