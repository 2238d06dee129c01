"""CLIP's vision tower, with weights as the transformers library saves them.

    network = clip_tower()                              # (N, 3, 224, 224) to (N, 768)
    load_into(network, clip_state(load_file(path)), str(path))

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021).
StyleID is this network, trained further on stylized faces (arXiv 2604.21689, 2026); its file has
transformers' names of tensors, and timm's network other ones.
"""

import re
from collections.abc import Mapping

import timm
import torch
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor, nn

CLIP = "vit_large_patch14_clip_quickgelu_224"
CLIP_MEAN, CLIP_DEVIATION = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
WIDTH = 768  # of the features that pictures and texts share
PREFIX = "vision_model."
NAMES = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj",
    "pre_layrnorm": "norm_pre",  # as transformers spells it
    "post_layernorm": "norm",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "encoder.layers.": "blocks.",
}


def clip_tower() -> nn.Module:
    """Build the vision tower of CLIP ViT-L/14, with random weights.

    Its features are those that CLIP compares with a text's.
    """
    network: nn.Module = timm.create_model(CLIP, pretrained=False, num_classes=WIDTH)
    return network


def clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a `CLIPModel`'s tensors by the names that timm's vision transformer has for them.

    Args:
        state: Of transformers' `CLIPModel` or `CLIPVisionModelWithProjection`. Tensors of its text
            tower are left out; names that are none of transformers' stay.

    >>> sorted(clip_state({"vision_model.pre_layrnorm.bias": torch.zeros(2)}))
    ['norm_pre.bias']
    """
    tower = {n.removeprefix(PREFIX): t for n, t in state.items() if n.startswith(PREFIX)}
    if not tower:
        return dict(state)
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}  # timm has query, key and value in one matrix
    for name, tensor in tower.items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        if match := re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            parts.setdefault(f"{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = tensor
        else:
            found[name] = tensor
    found |= {n: torch.cat([its[p] for p in "qkv"]) for n, its in parts.items() if len(its) == 3}
    if "cls_token" in found:
        found["cls_token"] = found["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in found:
        found["pos_embed"] = found["pos_embed"][None]
    if (projection := state.get("visual_projection.weight")) is not None:
        found |= {"head.weight": projection, "head.bias": projection.new_zeros(len(projection))}
    return found
