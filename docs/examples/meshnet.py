"""A network of volumes, written anew from its state dict: the MeshNet of brainchop (MIT).

A worked example of bring-your-own-model.md: a function that a card names as ``meshnet:meshnet``.
Convolutions that see ever farther and then nearer again, and no pooling (Fedorov et al., IJCNN
2017, "End-to-end learning of brain tissue segmentation from imperfect labeling").
"""

from __future__ import annotations

from torch import Tensor, nn

DILATIONS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 12, 8, 7, 6, 5, 4, 3, 2, 1)


class MeshNet(nn.Module):
    """Dilated convolutions, each with batch normalisation and ELU, and one of a single voxel."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for dilation in DILATIONS:
            convolution = nn.Conv3d(channels, width, 3, padding=dilation, dilation=dilation)
            layers.append(nn.Sequential(convolution, nn.BatchNorm3d(width), nn.ELU(inplace=True)))
            channels = width
        self.model = nn.Sequential(*layers, nn.Conv3d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, outputs, a, b, c) of volumes (B, channels, a, b, c)."""
        out: Tensor = self.model(x)
        return out


def meshnet(outputs: int, channels: int, width: int = 15) -> nn.Module:
    """Build the network that a card describes.

    Parameters
    ----------
    outputs, channels : int
        Given by napari-grata, from the card's structures and channels.
    width : int
        From the card's ``arguments``.
    """
    return MeshNet(channels, outputs, width)
