"""STAGE (Lei et al. 2020): answers grounded in the regions of frames and in spans of time.

Sizes, equations and the names of the parameters are those of the public code (``STAGE`` of
jayleicn/TVQAplus), so that its weights fit. Letters: B questions of five answers, F frames, L words
of a question and an answer, R regions or words of a frame, D the width of states.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from modalign._checks import require_choice, require_positive
from modalign.models.padded import Padded, require_dtype, require_padded
from modalign.models.released import Released, Source
from modalign.models.stage_losses import STAGEOutput, Truth, require_truth, stage_losses
from modalign.models.stage_parts import (
    LONGEST,
    ConvolutionalEncoder,
    Mapper,
    best_spans,
    guided_attention,
    hull_iou,
    lowest,
    unit,
)
from modalign.models.tvqa_abc import ANSWERS, masked_max, require_answers

STREAMS = ("subtitles", "video", "captions")
# a predicted span is a proposal too, where it is this likely and overlaps the true one so much
LIKELY, OVERLAP = 0.01, 0.5


class STAGE(nn.Module):
    """STAGE of one stream or more; about 0.55 M parameters, 0.59 M with local pooling.

    A frame without anything real is left out of all maxima, and a question without such a frame
    pools zeros. Of three streams a, b and c the fused vector is made of [a, b, c, ab, ac, bc], as
    [a, b, ab] is of two (Yun et al. 2022 add captions and do not say how).

    Args:
        streams: of ``subtitles``, ``video`` and ``captions``, which are texts as subtitles are.
        text_dim: width of a word's features (BERT: 768).
        video_dim: of a region's features (reduced by PCA: 300), which are scaled to length one.
        bridge: width of both after their first layer.
        hidden: D, width of states.
        kernels: of the convolutions over words and regions, and before the answer; odd.
        blocks, convolutions: of both encoders.
        dropout: everywhere.
        local: pool within the predicted span too, and not over all frames alone.
        margin: frames by which a span is widened for it, on both sides.
        scale: of cosines before the softmax.
        zero_padding: whether padding is zeros to convolutions. As in the public code it is not by
            default: then features of padding, zeros there, leak into the places beside them, and
            answers depend a little on how far a batch is padded.
        positions: words or regions at most in a row.

    Raises:
        ValueError: for sizes that are not above 0, a kernel that is even, a width that is odd, and
            no stream, one twice, or an unknown one.

    >>> model = STAGE(streams=["subtitles"], text_dim=6, bridge=5, hidden=4)
    >>> answers = Padded(torch.ones(1, 5, 3, 6), torch.ones(1, 5, 3))
    >>> subtitles = Padded(torch.ones(1, 2, 4, 6), torch.ones(1, 2, 4))
    >>> model(answers, subtitles=subtitles).logits.shape
    torch.Size([1, 5])
    """

    def __init__(
        self,
        *,
        streams: Sequence[str] = ("subtitles", "video"),
        text_dim: int = 768,
        video_dim: int = 300,
        bridge: int = 300,
        hidden: int = 128,
        kernels: tuple[int, int] = (7, 5),
        blocks: tuple[int, int] = (1, 1),
        convolutions: tuple[int, int] = (2, 2),
        dropout: float = 0.1,
        local: bool = True,
        margin: int = 3,
        scale: float = 10.0,
        zero_padding: bool = False,
        positions: int = LONGEST,
    ) -> None:
        super().__init__()
        require_positive(
            text_dim=text_dim,
            video_dim=video_dim,
            bridge=bridge,
            hidden=hidden,
            scale=scale,
            positions=positions,
        )
        for name in streams:
            require_choice(name, STREAMS, "streams")
        if not streams or len(set(streams)) < len(streams):
            raise ValueError(f"streams: expected one or more, each once, got {list(streams)}")
        if hidden % 2:
            raise ValueError(f"hidden: expected an even number, got {hidden}")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels: expected odd numbers, got {kernels}")
        if margin < 0:
            raise ValueError(f"margin: expected 0 frames or more, got {margin}")
        self.streams = [name for name in STREAMS if name in streams]
        self.text_dim, self.video_dim, self.local = text_dim, video_dim, local
        self.margin, self.scale, self.dropout = margin, scale, dropout
        self.zero_padding = zero_padding

        def reduced(inner: int, outer: int) -> list[nn.Module]:
            return [nn.LayerNorm(inner), nn.Dropout(dropout), nn.Linear(inner, outer), nn.ReLU()]

        def encoder(which: int) -> ConvolutionalEncoder:
            return ConvolutionalEncoder(
                hidden,
                kernels[which],
                blocks=blocks[which],
                convolutions=convolutions[which],
                dropout=dropout,
                zero_padding=zero_padding,
                rows=positions,
            )

        self.bert_word_encoding_fc = nn.Sequential(*reduced(text_dim, bridge), nn.LayerNorm(bridge))
        if "video" in streams:
            self.vid_fc = nn.Sequential(*reduced(video_dim, bridge), nn.LayerNorm(bridge))
        number = len(self.streams)
        if number > 1:
            parts = number * (number + 1) // 2
            self.concat_fc = nn.Sequential(*reduced(parts * hidden, hidden), nn.LayerNorm(hidden))
        self.input_embedding = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(bridge, hidden), nn.ReLU(), nn.LayerNorm(hidden)
        )
        self.input_encoder = encoder(0)
        self.c2q_down_projection = nn.Sequential(*reduced(3 * hidden, hidden))
        self.cls_encoder = encoder(1)

        def mapper(outer: int, *, relu: bool, inner: int = hidden) -> Mapper:
            return Mapper(inner, outer, dropout, relu=relu)

        self.cls_projection_layers = nn.ModuleList([mapper(hidden, relu=True)])
        self.temporal_scoring_st_layers = nn.ModuleList([mapper(1, relu=False)])
        self.temporal_scoring_ed_layers = nn.ModuleList([mapper(1, relu=False)])
        if local:
            self.local_mapper = mapper(hidden, relu=True)
            self.global_mapper = mapper(hidden, relu=True)
        self.classifier = mapper(1, relu=False, inner=2 * hidden if local else hidden)

    @classmethod
    def from_released(
        cls,
        state_dict: Source,
        *,
        streams: Sequence[str] | None = None,
        dropout: float = 0.1,
        margin: int = 3,
        scale: float = 10.0,
        zero_padding: bool = False,
    ) -> "STAGE":
        """The model of released weights, set to inference; sizes are read off their shapes.

        The table of positions may be missing, as it is not a parameter. The settings below are not
        in the weights either, because they make no parameter. Weights of the public code's
        options for self-attention and further rounds of spans (``t_iter``), which its paper does
        not use, are refused.

        Args:
            state_dict: of ``STAGE``, or a file of it, which is read with ``weights_only=True``.
            streams: of the model; by default subtitles and video, or the one that the weights
                have, or, if captions were added, all.
            dropout, margin, scale, zero_padding: as of the class.

        Raises:
            TypeError, ValueError: as :class:`modalign.models.released.Released`; the first
                parameter that differs is named.

        >>> state = STAGE(streams=["video"], text_dim=6, bridge=5, hidden=4).state_dict()
        >>> STAGE.from_released(state).streams
        ['video']
        """
        state = Released(state_dict)
        bridge, text_dim = state.shape("bert_word_encoding_fc.2.weight", 2)
        hidden, _ = state.shape("input_embedding.1.weight", 2)
        sizes = {"text_dim": text_dim, "bridge": bridge, "hidden": hidden}
        if "vid_fc.2.weight" in state:
            sizes["video_dim"] = state.shape("vid_fc.2.weight", 2)[1]
        kernels, blocks, convolutions, table = [], [], [], LONGEST
        optional = []
        for encoder in ("input_encoder", "cls_encoder"):
            block = f"{encoder}.stacked_encoderBlocks.{{}}"
            number = max(1, state.count(f"{block}.final_layer_norm.weight"))
            first = block.format(0)
            kernels.append(state.shape(f"{first}.conv.0.depthwise_conv.weight", 3)[2])
            convolutions.append(state.count(f"{first}.conv.{{}}.depthwise_conv.weight"))
            blocks.append(number)
            optional += [f"{block.format(i)}.position_encoding.pe" for i in range(number)]
        for name in optional:
            if name in state:
                table = state.shape(name, 2)[0]
                break
        with torch.random.fork_rng(devices=()):
            model = cls(
                streams=_streams_of(state, hidden) if streams is None else streams,
                **sizes,
                kernels=(kernels[0], kernels[1]),
                blocks=(blocks[0], blocks[1]),
                convolutions=(convolutions[0], convolutions[1]),
                dropout=dropout,
                local="local_mapper.conv.2.weight" in state,
                margin=margin,
                scale=scale,
                zero_padding=zero_padding,
                positions=table,
            )
        return state.into(model, optional=optional)

    def forward(
        self,
        answers: Padded,
        *,
        frames: Bool[Tensor, "b f"] | None = None,
        truth: Truth | None = None,
        **contexts: Padded,
    ) -> STAGEOutput:
        """Score the five answers of each question.

        Args:
            answers: features of the words of question and answer, (B, 5, L, ``text_dim``), and
                their mask.
            frames: (B, F), which frames a clip has, before padding. By default those with
                something real in any stream.
            truth: in training. Proposals are then, for all answers, the true span, and the
                predicted one of the right answer beside it if it overlaps by half and is at
                all likely; without it, each answer's predicted span is its proposal.
            **contexts: by the name of each stream of the model, (B, F, R, ``text_dim`` or
                ``video_dim``) and a mask (B, F, R).

        Raises:
            ValueError: for streams that are missing or that the model lacks, other than five
                answers, other numbers of rows or frames, features of another width or not finite,
                and a truth that cannot be.
            TypeError: for anything but a pair of values and mask.
        """
        qa, seen, there = self._inputs(answers, contexts, frames)
        read, real, attention, cosines = {}, {}, {}, {}
        for name, (values, mask) in seen.items():
            found, cosines[name], attention[name] = guided_attention(
                qa.values[:, :, None],
                qa.mask[:, :, None],
                values[:, None],
                mask[:, None],
                scale=self.scale,
                dropout=self.dropout if self.training else 0.0,
            )
            words = qa.values[:, :, None].expand_as(found)
            read[name] = self.c2q_down_projection(torch.cat([words, found, words * found], -1))
            real[name] = qa.mask[:, :, None] & mask.any(-1)[:, None, :, None]
        # the words that count are those of frames with regions, if there is video
        words = real["video" if "video" in real else self.streams[0]]
        statement = self.cls_encoder(self._fused(read).flatten(0, 2), words.flatten(0, 2))
        pooled = masked_max(statement.unflatten(0, words.shape[:3]), words[..., None], 3)
        whole = words.any(3, keepdim=True)
        pooled = (pooled + self.cls_projection_layers[0](pooled)) * whole
        heads = self.temporal_scoring_st_layers[0], self.temporal_scoring_ed_layers[0]
        span_logits = torch.cat([head(pooled) for head in heads], -1)
        span_logits = span_logits.where(there[:, None, :, None], lowest(span_logits.dtype))
        spans, chances = best_spans(span_logits)
        if truth is not None:
            truth = require_truth(truth, *there.shape)
        # without local pooling a question has one proposal, as no span is looked at
        question, proposed = _proposals(spans, chances, truth if self.local else None)
        logits = self._answer(pooled[question], whole[question], proposed)
        embeddings = {"qa": Padded(qa.values.flatten(1, 2), qa.mask.flatten(1))}
        embeddings |= {
            name: Padded(values.flatten(1, 2), mask.flatten(1))
            for name, (values, mask) in seen.items()
        }
        return STAGEOutput(logits, question, span_logits, spans, attention, cosines, embeddings)

    losses = staticmethod(stage_losses)

    def _inputs(
        self, answers: Padded, contexts: dict[str, Padded], frames: Tensor | None
    ) -> tuple[Padded, dict[str, Padded], Tensor]:
        """Embedded answers (B, 5, L, D) and contexts (B, F, R, D), and the real frames."""
        if set(contexts) != set(self.streams):
            raise ValueError(
                f"contexts: expected {', '.join(self.streams)}, got {', '.join(contexts) or 'none'}"
            )
        leaks = not self.zero_padding
        answers = require_padded(answers, "answers", 3, width=self.text_dim, leaks=leaks)
        b = len(answers.values)
        require_answers(answers.values, b)
        seen: dict[str, Padded] = {}
        shape = None
        for name in self.streams:
            width = self.video_dim if name == "video" else self.text_dim
            given = require_padded(contexts[name], name, 3, width=width, leaks=leaks)
            shape = shape or (b, given.mask.shape[1])
            if given.mask.shape[:2] != shape:
                raise ValueError(
                    f"{name}: expected {shape[0]} questions of {shape[1]} frames, got "
                    f"{tuple(given.mask.shape[:2])}"
                )
            seen[name] = given
        if frames is None:
            frames = torch.stack([each.mask.any(2) for each in seen.values()]).any(0)
        elif tuple(frames.shape) != shape or frames.dtype != torch.bool:
            raise ValueError(f"frames: expected bool {shape}, got {frames.dtype} {frames.shape}")
        embedded = {name: self._embedded(given, name) for name, given in seen.items()}
        return self._embedded(answers, "answers"), embedded, frames

    def _embedded(self, given: Padded, name: str) -> Padded:
        """States (..., L, D) of features (..., L, width)."""
        values, mask = given
        require_dtype(values, next(self.parameters()), name)
        if self.zero_padding:
            values = values.where(mask[..., None], 0)
        video = name == "video"
        first = self.vid_fc(unit(values)) if video else self.bert_word_encoding_fc(values)
        rows = self.input_embedding(first).flatten(0, 1)
        states = self.input_encoder(rows, mask.flatten(0, 1))
        return Padded(states.unflatten(0, mask.shape[:2]), mask)

    def _fused(self, read: dict[str, Tensor]) -> Tensor:
        """The streams, and the product of each two, as one vector (B, 5, F, L, D)."""
        each = list(read.values())
        if len(each) == 1:
            return each[0]
        products = [x * y for x, y in itertools.combinations(each, 2)]
        return self.concat_fc(torch.cat([*each, *products], -1))

    def _answer(self, pooled: Tensor, whole: Tensor, spans: Tensor) -> Tensor:
        """Scores (N, 5) of answers from frames (N, 5, F, D): all, and those near a span."""
        everywhere = masked_max(pooled, whole, 2)
        if not self.local:
            return self.classifier(everywhere)[..., 0]
        frame = torch.arange(pooled.shape[2], device=spans.device)
        first, last = spans[..., :1] - self.margin, spans[..., 1:] + self.margin
        near = ((frame >= first) & (frame <= last))[..., None]
        here = masked_max(pooled, whole & near, 2)
        return self.classifier(
            torch.cat([self.local_mapper(here), self.global_mapper(everywhere)], -1)
        )[..., 0]


def _streams_of(state: Released, hidden: int) -> list[str]:
    """The streams that weights were made for."""
    video = ["video"] if "vid_fc.2.weight" in state else []
    if "concat_fc.2.weight" not in state:
        return video or ["subtitles"]
    parts = state.shape("concat_fc.2.weight", 2)[1] // hidden
    return ["subtitles", *video, *(["captions"] if parts > 3 or not video else [])]


def _proposals(spans: Tensor, chances: Tensor, truth: Truth | None) -> tuple[Tensor, Tensor]:
    """Whose each proposal is, (N,), and its span for each answer, (N, 5, 2)."""
    everyone = torch.arange(len(spans), device=spans.device)
    if truth is None:
        return everyone, spans
    target, start, end = truth
    true = torch.stack([start, end], -1)
    guessed, chance = spans[everyone, target], chances[everyone, target]
    kept = (chance >= LIKELY) & (hull_iou(guessed, true) >= OVERLAP)
    both = torch.stack([torch.ones_like(kept), kept], 1)
    question, which = both.nonzero().T
    proposed = torch.stack([true, guessed], 1)[question, which]
    return question, proposed[:, None].expand(-1, ANSWERS, -1)
