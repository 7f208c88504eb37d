"""EDM's network of ImageNet-64 spelled out under its own tensor names: ADM's U-Net with one-hot labels.

Written from the papers (Dhariwal and Nichol, 2021, appendix; Karras et al., 2022, table 1 and appendix F): a second
opinion on what koala builds from diffusers' blocks.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

GROUP = 4  # channels at least


def norm(channels):
    return nn.GroupNorm(min(32, channels // GROUP), channels, eps=1e-5)


class Resampled(nn.Conv2d):
    """A convolution after a change of resolution, whose filter is among the saved tensors; or that change alone."""

    def __init__(self, channels, out, size, change):
        super().__init__(channels, out, size, padding=size // 2)
        self.change = change
        if change:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x):
        return super().forward(resampled(x, self.change))


class Resampling(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change
        self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x):
        return resampled(x, self.change)


def resampled(x, change):
    """Each pixel four times, or the mean of four pixels."""
    if change == "up":
        return torch.stack([torch.stack([x, x], -1).flatten(-2)] * 2, -2).flatten(-3, -2)
    if change == "down":
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return x


class Block(nn.Module):
    def __init__(self, channels, out, told, change=None, head=None):
        super().__init__()
        self.norm0, self.conv0 = norm(channels), Resampled(channels, out, 3, change)
        self.affine = nn.Linear(told, 2 * out)
        self.norm1, self.conv1 = norm(out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else Resampling(change) if change else None
        self.head = head
        if head:
            self.norm2, self.qkv, self.proj = norm(out), nn.Conv2d(out, 3 * out, 1), nn.Conv2d(out, out, 1)

    def forward(self, x, told):
        scale, shift = self.affine(told)[..., None, None].chunk(2, dim=1)
        y = self.conv0(F.silu(self.norm0(x)))
        y = self.conv1(F.silu(self.norm1(y) * (scale + 1) + shift))
        y = y + (x if self.skip is None else self.skip(x))
        return y + self.proj(self.attended(self.qkv(self.norm2(y)))) if self.head else y

    def attended(self, qkv):
        """Head by head; a head's channels hold query, key and value of its first channel, then of its second ..."""
        n, channels, height, width = qkv.shape
        out = torch.empty(n, channels // 3, height, width, dtype=qkv.dtype)
        for i in range(channels // 3 // self.head):
            own = qkv[:, 3 * self.head * i : 3 * self.head * (i + 1)].flatten(2)
            query, key, value = (own[:, j::3] for j in range(3))
            weights = (query.transpose(1, 2) @ key / math.sqrt(self.head)).softmax(dim=-1)
            here = out[:, self.head * i : self.head * (i + 1)]
            here.copy_((value @ weights.transpose(1, 2)).reshape(here.shape))
        return out


class Network(nn.Module):
    """`channels` a stage; stages whose `attends` is true have heads of `head` channels."""

    def __init__(self, side, channels, attends, blocks, head, classes, colours=3):
        super().__init__()
        first, told = channels[0], 4 * channels[0]
        self.first, self.classes = first, classes
        self.map_layer0, self.map_layer1 = nn.Linear(first, told), nn.Linear(told, told)
        self.map_label = nn.Linear(classes, told, bias=False)
        here, skips = first, [first]
        self.enc = nn.ModuleDict({f"{side}x{side}_conv": nn.Conv2d(colours, first, 3, padding=1)})
        for stage, (width, attend) in enumerate(zip(channels, attends, strict=True)):
            name = f"{side >> stage}x{side >> stage}"
            if stage:
                self.enc[f"{name}_down"] = Block(here, here, told, "down")
                skips.append(here)
            for i in range(blocks):
                self.enc[f"{name}_block{i}"] = Block(here, width, told, head=head if attend else None)
                here = width
                skips.append(here)
        self.dec = nn.ModuleDict()
        for stage in reversed(range(len(channels))):
            name = f"{side >> stage}x{side >> stage}"
            if stage == len(channels) - 1:
                self.dec[f"{name}_in0"] = Block(here, here, told, head=head)
                self.dec[f"{name}_in1"] = Block(here, here, told)
            else:
                self.dec[f"{name}_up"] = Block(here, here, told, "up")
            for i in range(blocks + 1):
                block = Block(here + skips.pop(), channels[stage], told, head=head if attends[stage] else None)
                self.dec[f"{name}_block{i}"] = block
                here = channels[stage]
        self.out_norm, self.out_conv = norm(here), nn.Conv2d(here, colours, 3, padding=1)

    def forward(self, x, noise, classes):
        half = self.first // 2
        waves = torch.stack([noise / 10_000 ** (i / half) for i in range(half)], dim=1)
        told = F.silu(self.map_layer0(torch.cat([waves.cos(), waves.sin()], dim=1)))
        told = F.silu(self.map_layer1(told) + self.map_label(F.one_hot(classes, self.classes).to(x.dtype)))
        skips = []
        for block in self.enc.values():
            x = block(x, told) if isinstance(block, Block) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            x = block(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, told)
        return self.out_conv(F.silu(self.out_norm(x)))


class Preconditioned(nn.Module):
    """D(x; sigma), the network's tensors under "model."."""

    def __init__(self, *args):
        super().__init__()
        self.model = Network(*args)

    def forward(self, x, sigma, classes):
        sigma, data = sigma[:, None, None, None], 0.5
        skip = data**2 / (sigma**2 + data**2)
        out = sigma * data / (sigma**2 + data**2) ** 0.5
        into = 1 / (sigma**2 + data**2) ** 0.5
        return skip * x + out * self.model(into * x, sigma.flatten().log() / 4, classes)
