"""Video question answering: TVQA_abc and STAGE, with which the first paper tries CKA.

Both take :class:`Padded` inputs, score five answers, and return the vectors that their attention
compares, so that an auxiliary loss can be added.
"""

from modalign.models.padded import Padded
from modalign.models.stage import STAGE, STAGEOutput, Truth
from modalign.models.tvqa_abc import TVQA, TVQAOutput

__all__ = ["STAGE", "TVQA", "Padded", "STAGEOutput", "TVQAOutput", "Truth"]
