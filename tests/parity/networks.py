"""The networks of the parity tests in plain PyTorch, for every version that exports them.

make(name) gives a Case: the network with every parameter set from NumPy's RandomState, whose
numbers are the same in all versions, and the batch that it trains on. Nothing is dropped out:
what is random cannot be compared.
"""

import math
import zlib
from typing import Callable, NamedTuple

import numpy
import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inner, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = shortcut(inner, width, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.down(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inner, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.down = shortcut(inner, 4 * width, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.down(x))


def shortcut(inner, width, stride):
    if inner == width and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inner, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class ResNet(nn.Module):
    """He et al., CVPR 2016. stem: "imagenet" (7x7, stride 2, max pool) or "cifar" (3x3)."""

    def __init__(self, block, depths, widths, stem, classes):
        super().__init__()
        first = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
        self.conv1 = nn.Conv2d(3, widths[0], *first, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        blocks, inner = [], widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths)):
            for i in range(depth):
                blocks.append(block(inner, width, 2 if stage > 0 and i == 0 else 1))
                inner = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inner, classes)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.gap(self.blocks(x)), 1))


class VggBn(nn.Module):
    """Simonyan and Zisserman's network with batch normalisation, as torchvision writes it: biases
    before normalisations too. plan: widths, and "M" for a pool."""

    def __init__(self, plan, hidden, classes, pooled=1):
        super().__init__()
        layers, inner = [], 3
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inner, step, 3, padding=1), nn.BatchNorm2d(step), nn.ReLU()]
            inner = step
        self.features = nn.Sequential(*layers)
        self.gap = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = nn.Sequential(
            nn.Linear(inner * pooled * pooled, hidden), nn.ReLU(), nn.Dropout(0.0),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.0), nn.Linear(hidden, classes))

    def forward(self, x):
        return self.classifier(torch.flatten(self.gap(self.features(x)), 1))


class InvertedResidual(nn.Module):
    def __init__(self, inner, width, stride, expansion):
        super().__init__()
        hidden = inner * expansion
        layers = []
        if expansion != 1:
            layers += [nn.Conv2d(inner, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inner == width

    def forward(self, x):
        y = self.layers(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Sandler et al., CVPR 2018. plan: (expansion, width, blocks, stride of the first)."""

    def __init__(self, stem, plan, head, classes):
        super().__init__()
        layers = [nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6()]
        inner = stem
        for expansion, width, blocks, stride in plan:
            for i in range(blocks):
                layers.append(InvertedResidual(inner, width, stride if i == 0 else 1, expansion))
                inner = width
        layers += [nn.Conv2d(inner, head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(head, classes))

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class VitOfEncoderLayers(nn.Module):
    """Patches, learned positions, nn.TransformerEncoder, mean over the tokens."""

    def __init__(self, image, patch, dim, heads, layers, mlp, classes):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.positions = nn.Parameter(torch.zeros(1, (image // patch) ** 2, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, mlp, dropout=0.0, activation="gelu",
                                           batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.encoder(x)).mean(1))


class Attention(nn.Module):
    """Heads written out, as timm's Attention without fused attention."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        y = scores.softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


class VitBlock(nn.Module):
    def __init__(self, dim, heads, mlp):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, mlp)
        self.fc2 = nn.Linear(mlp, dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VitOfClassToken(nn.Module):
    """Dosovitskiy et al., ICLR 2021: a class token in front of the patches gives the answer."""

    def __init__(self, image, patch, dim, heads, layers, mlp, classes):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*[VitBlock(dim, heads, mlp) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class CausalAttention(nn.Module):
    """nanoGPT's. Its two ways: a mask, or, once `fused` is set, F.scaled_dot_product_attention,
    which came with PyTorch 2."""

    fused = False

    def __init__(self, context, dim, heads):
        super().__init__()
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)
        self.heads, self.dim = heads, dim
        self.register_buffer(
            "bias", torch.tril(torch.ones(context, context)).view(1, 1, context, context))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.dim, dim=2)
        k = k.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        q = q.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        v = v.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
            y = F.softmax(att, dim=-1) @ v
        y = y.transpose(1, 2).contiguous().view(b, t, c)
        return self.c_proj(y)


class GptBlock(nn.Module):
    def __init__(self, context, dim, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = CausalAttention(context, dim, heads)
        self.ln_2 = nn.LayerNorm(dim)
        self.c_fc = nn.Linear(dim, 4 * dim)
        self.c_proj = nn.Linear(4 * dim, dim)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x))))


class Gpt(nn.Module):
    """As nanoGPT writes it: tokens in, scores of the next token at every place out."""

    def __init__(self, vocabulary, context, dim, heads, layers, tied=False):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, dim)
        self.wpe = nn.Embedding(context, dim)
        self.h = nn.ModuleList([GptBlock(context, dim, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        if tied:
            self.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        t = tokens.size(1)
        positions = torch.arange(0, t, dtype=torch.long, device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Recipe(NamedTuple):
    network: Callable[[], nn.Module]
    shape: tuple  # of one sample: (C, H, W), or (T,) for tokens
    classes: int  # tokens: the vocabulary
    # Of SGD: the loss falls, and stays away from zero. Deep networks with batch normalisation have
    # large gradients as they are made: in longer steps float32 would lose its way.
    rate: float
    batch: int = 4


def mobilenet_v2():
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1)]
    return MobileNetV2(32, plan, 1280, 10)


VGG11 = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]

RECIPES = {
    # Small enough to be kept in the repository.
    "tiny_resnet18": Recipe(lambda: ResNet(BasicBlock, [2, 2, 2, 2], [3, 4, 4, 6], "imagenet", 5),
                            (3, 40, 40), 5, 0.01),
    "tiny_vgg_bn": Recipe(lambda: VggBn([4, "M", 8, "M", 8, 8, "M"], 16, 5, pooled=2),
                          (3, 16, 16), 5, 0.02, batch=8),
    "tiny_mobilenet": Recipe(
        lambda: MobileNetV2(4, [(1, 4, 1, 1), (4, 6, 2, 2), (4, 8, 2, 1)], 16, 5),
        (3, 16, 16), 5, 0.02, batch=8),
    "tiny_vit": Recipe(lambda: VitOfEncoderLayers(8, 4, 16, 2, 1, 24, 5), (3, 8, 8), 5, 0.02),
    "tiny_vit_token": Recipe(lambda: VitOfClassToken(8, 4, 16, 2, 2, 24, 5), (3, 8, 8), 5, 0.02),
    "tiny_gpt": Recipe(lambda: Gpt(17, 6, 12, 2, 2), (6,), 17, 0.05),
    "tiny_gpt_tied": Recipe(lambda: Gpt(17, 6, 12, 2, 1, tied=True), (6,), 17, 0.05),
    # True sizes.
    "resnet18": Recipe(
        lambda: ResNet(BasicBlock, [2, 2, 2, 2], [64, 128, 256, 512], "imagenet", 10),
        (3, 64, 64), 10, 2e-5, batch=8),
    "resnet50": Recipe(lambda: ResNet(Bottleneck, [3, 4, 6, 3], [64, 128, 256, 512], "cifar", 10),
                       (3, 32, 32), 10, 1e-7),
    "vgg11_bn": Recipe(lambda: VggBn(VGG11, 4096, 10), (3, 32, 32), 10, 5e-5, batch=8),
    "mobilenet_v2": Recipe(mobilenet_v2, (3, 64, 64), 10, 5e-6, batch=8),
    "vit": Recipe(lambda: VitOfEncoderLayers(32, 4, 512, 8, 8, 512, 10), (3, 32, 32), 10, 0.001),
    "vit_b_16": Recipe(lambda: VitOfClassToken(32, 16, 768, 12, 12, 3072, 10), (3, 32, 32), 10,
                       0.001),
    "gpt": Recipe(lambda: Gpt(65, 64, 128, 4, 4), (64,), 65, 0.02),
}


class Case(NamedTuple):
    network: nn.Module  # in training mode
    x: torch.Tensor
    labels: torch.Tensor  # int64: a class a sample, or a token a place
    rate: float


def values(name, shape, low, high):
    seed = numpy.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(seed.uniform(low, high, size=tuple(shape)).astype(numpy.float32))


@torch.no_grad()
def initialise(network):
    """No two parameters alike, none zero: one that is taken for another shows."""
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:  # biases, and the factors of normalisations
            parameter.copy_(name.endswith("weight") + values(name, parameter.shape, -0.2, 0.2))
        elif "wte" in name or "wpe" in name or name in ("token", "positions"):
            parameter.copy_(values(name, parameter.shape, -0.5, 0.5))
        else:
            bound = math.sqrt(3 / parameter[0].numel())
            if parameter.dim() == 4:  # a rectifier follows
                bound *= math.sqrt(2)
            parameter.copy_(values(name, parameter.shape, -bound, bound))


def make(name):
    recipe = RECIPES[name]
    network = recipe.network()
    initialise(network)
    network.train()
    numbers = numpy.random.RandomState(zlib.crc32(name.encode()))
    shape = (recipe.batch, *recipe.shape)
    if len(recipe.shape) == 1:
        x = torch.from_numpy(numbers.randint(recipe.classes, size=shape, dtype=numpy.int64))
        labels = numbers.randint(recipe.classes, size=shape, dtype=numpy.int64)
    else:
        x = torch.from_numpy(numbers.uniform(-1.7, 1.7, size=shape).astype(numpy.float32))
        labels = numbers.randint(recipe.classes, size=recipe.batch, dtype=numpy.int64)
    return Case(network, x, torch.from_numpy(labels), recipe.rate)
