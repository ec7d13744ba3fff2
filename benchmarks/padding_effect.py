"""Measures what padding does to sizes that are no multiple of the mask unit.

    python benchmarks/padding_effect.py [PHOTO]

hierax pads with zeros and lets the padding take part in attention, so that attention needs no mask and kernels stay
fused. The reference here is the same model with the padded tokens hidden: no query sees them as keys, and pooling
leaves them out. Prints, per size, the relative difference of each stage's map (over tokens that touch the picture) and
the cosine between the pooled outputs. Weights are random (standard deviation 0.05), the photo is real.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import hierax
from hierax.model.blocks import Block
from hierax.model.encoder import Features
from hierax.model.tokens import pool

SIZES = ((224, 224), (223, 223), (216, 216), (208, 208), (200, 200), (193, 193), (225, 225), (472, 1000), (449, 449))
PHOTO = Path(hierax.__file__).parent / "assets" / "cat.jpg"


def pooled(x: Tensor, real: Tensor, neighbors: int) -> Tensor:
    """Maximum over the real tokens that pool into one."""
    return pool(x.masked_fill(~real, -torch.inf), neighbors).nan_to_num(neginf=0.0)


def block_without_padding(block: Block, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """`Block.forward` with the tokens that are not `real` `[B, U, P, 1]` hidden."""
    attention, spec = block.attn, block.spec
    normed = block.norm1(x)
    q, k, v = attention.qkv(normed).unflatten(-1, (3, -1)).unbind(3)
    seen, q = real, pooled(q, real, spec.pool)
    left = pool(real.float(), spec.pool).bool()
    fold = 0 if spec.window else 1
    heads = [t.flatten(fold, fold + 1).unflatten(-1, (spec.heads, -1)).transpose(1, 2) for t in (q, k, v)]
    allowed = seen.flatten(fold, fold + 1)[..., 0][:, None, None]
    allowed = allowed | ~allowed.any(-1, keepdim=True)  # a unit of padding alone attends to itself, to stay finite
    y = F.scaled_dot_product_attention(*heads, attn_mask=allowed).transpose(1, 2).flatten(2)
    y = attention.proj(y.unflatten(fold, (-1, x.shape[1]) if spec.window else (x.shape[1], -1)))
    shortcut = x if block.proj is None else pooled(block.proj(normed), real, spec.pool)
    x = shortcut + y
    return x + block.mlp(block.norm2(x)), left


@torch.inference_mode()
def without_padding(encoder: hierax.Hiera, pixels: Tensor) -> Features:
    """What `encoder(pixels)` would be if padded tokens were hidden."""
    plain = encoder(pixels, stages=range(5))
    x, layout, config = plain.tokens[0], encoder.pos_embed.layout, encoder.config
    grid = torch.zeros(1, *config.token_grid(plain.size), 1, dtype=torch.bool)
    grid[:, : -(-plain.size[0] // 4), : -(-plain.size[1] // 4)] = True
    real, tokens, ends = layout.unroll(grid), {0: x}, [sum(config.depths[: i + 1]) for i in range(4)]
    for index, block in enumerate(encoder.blocks, start=1):
        assert isinstance(block, Block)
        x, real = block_without_padding(block, x, real)
        if index in ends:
            tokens[ends.index(index) + 1] = x
    return Features(config, tokens, plain.layouts, plain.units, plain.size, None, None)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTO)
    photo = hierax.load_image(parser.parse_args().photo)
    torch.manual_seed(0)
    model = hierax.create_model("hiera_tiny_224").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    encoder = model.get_submodule("encoder")
    assert isinstance(encoder, hierax.Hiera)
    print(
        "| size | padding | stage 1 | stage 2 | stage 3 | stage 4 | cosine of pooled |\n|---|---|---|---|---|---|---|"
    )
    for height, width in SIZES:
        record = hierax.Preprocessing(size={"height": height, "width": width}, do_center_crop=False)
        pixels = hierax.HieraImageProcessor(record)(photo).pixel_values
        with torch.inference_mode():
            padded, hidden = encoder(pixels, stages=range(5)), without_padding(encoder, pixels)
        maps = [(padded.map(stage), hidden.map(stage)) for stage in range(1, 5)]
        relative = [((a - b).norm() / b.norm()).item() for a, b in maps]
        cosine = F.cosine_similarity(padded.mean(), hidden.mean()).item()
        added = 1 - height * width / torch.Size(-(-s // 32) * 32 for s in (height, width)).numel()
        print(
            f"| {height}x{width} | {added:.0%} | {' | '.join(f'{r:.1e}' for r in relative)} | {cosine:.6f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
