"""The default network: a five-stage convolutional network for patches whose centre decides the label."""

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128, 256)
DEPTHS = (1, 2, 2, 2, 2)


class HistoNet(nn.Module):
    """Convolutions with batch norm and ReLU in five stages, max-pooling after each, fully connected layers."""

    def __init__(
        self,
        widths=WIDTHS,
        depths=DEPTHS,
        hidden: int = 128,
        dropout: float = 0.2,
        head="both",
        poolfirst=True,
        se=False,
    ) -> None:
        super().__init__()
        stages = []
        channels = 3
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for layer in range(depth):
                stages.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
                pool = layer == depth - 1 and number < len(widths) - 1
                if pool and poolfirst:
                    stages.append(nn.MaxPool2d(2))
                stages += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                if pool and not poolfirst:
                    stages.append(nn.MaxPool2d(2))
                channels = width
            if se:
                stages.append(SE(channels))
        self.stages = nn.Sequential(*stages)
        self.how = head
        self.head = nn.Sequential(
            nn.Linear(channels * (2 if head == "both" else 1), hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stages(images)
        if self.how == "gap":
            return self.head(maps.mean((2, 3)))
        c = maps.shape[2] // 2
        centre = maps[:, :, c - 1 : c + 1, c - 1 : c + 1].amax((2, 3))
        if self.how == "centre":
            return self.head(centre)
        return self.head(torch.cat([centre, maps.mean((2, 3))], 1))


class SE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a = nn.Linear(c, c // 4)
        self.b = nn.Linear(c // 4, c)

    def forward(self, x):
        s = torch.sigmoid(self.b(torch.relu(self.a(x.mean((2, 3))))))
        return x * s[:, :, None, None]
