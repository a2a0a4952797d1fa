import functools

import pytest
import torch
import transformers
from torch import nn

from modalign.models.encoders import (
    AudioEncoder,
    Encoder,
    EncoderOutput,
    ImageEncoder,
    TextEncoder,
    VideoEncoder,
    mel_filters,
    pooled,
    states,
)

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
WAV2VEC2 = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    # normalises each frame: with "group", padding is heard
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


def pictures(b=2, *, c=3, side=32):
    return {"pixel_values": torch.rand(b, c, side, side)}


def clips(b=2):
    return {"pixel_values": torch.rand(b, 4, 3, 32, 32)}


def sounds(b=2, n=4000):
    mask = torch.ones(b, n, dtype=torch.long)
    mask[1, n // 2 :] = 0
    return {"input_values": torch.randn(b, n) * mask, "attention_mask": mask}


def sentences(b=2):
    ids = torch.randint(2, 20, (b, 6))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def tiny(name, **options):
    config = getattr(transformers, f"{name}Config")(**TINY, **options)
    return getattr(transformers, f"{name}Model")(config)


def bare(name, **options):
    """The model without the layer that pools."""
    config = getattr(transformers, f"{name}Config")(**TINY, **options)
    return getattr(transformers, f"{name}Model")(config, add_pooling_layer=False)


VIDEO = {"image_size": 32, "patch_size": 16, "num_frames": 4}
CASES = {
    "image": (lambda: ImageEncoder(hidden_size=16), pictures),
    "scan": (
        lambda: ImageEncoder(hidden_size=16, in_channels=1, patch=1),
        functools.partial(pictures, c=1, side=8),
    ),
    "video": (lambda: VideoEncoder(hidden_size=16), clips),
    "audio": (lambda: AudioEncoder(hidden_size=16), sounds),
    "text": (lambda: TextEncoder(20, hidden_size=16), sentences),
    "ViT": (lambda: tiny("ViT", image_size=32, patch_size=16), pictures),
    "ViT without pooler": (lambda: bare("ViT", image_size=32, patch_size=16), pictures),
    "BERT": (lambda: tiny("Bert", vocab_size=20), sentences),
    "BERT without pooler": (lambda: bare("Bert", vocab_size=20), sentences),
    "VideoMAE": (lambda: tiny("VideoMAE", **VIDEO), clips),
    "Wav2Vec2": (lambda: tiny("Wav2Vec2", **WAV2VEC2), sounds),
}


@pytest.mark.parametrize("name", CASES)
def test_ours_and_those_of_transformers_go_one_way(name):
    make, inputs = CASES[name]
    encoder, given = make().eval(), inputs()
    assert isinstance(encoder, Encoder)
    assert encoder.main_input_name in given
    hidden, mask = states(encoder, **given)
    b, t, d = hidden.shape
    assert (b, d) == (2, encoder.config.hidden_size) == (2, 16)
    assert mask.shape == (b, t)
    assert mask.dtype == torch.bool
    if "attention_mask" in given:
        assert 0 < mask[1].sum() <= t / 2 + 1
        assert mask[0].all()
    vector = pooled(encoder, **given)
    assert vector.shape == (2, 16)
    assert vector.isfinite().all()
    vector.sum().backward()


@pytest.mark.parametrize("name", ["image", "video", "audio", "text"])
def test_half_precision_by_autocast_is_near(name):
    make, inputs = CASES[name]
    encoder, given = make().eval(), inputs()
    expected = pooled(encoder, **given)
    with torch.autocast("cpu", torch.bfloat16):
        found = pooled(encoder, **given)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)
    found.sum().backward()


@pytest.mark.parametrize("name", ["audio", "text", "BERT", "BERT without pooler", "Wav2Vec2"])
def test_padding_changes_nothing(name):
    make, inputs = CASES[name]
    encoder, given = make().eval(), inputs()
    with torch.no_grad():
        together = pooled(encoder, **given)[1]
        length = int(given["attention_mask"][1].sum())
        alone = pooled(encoder, **{key: value[1:, :length] for key, value in given.items()})[0]
        # what lies in the padding is not looked at
        main = encoder.main_input_name
        given[main] = torch.where(given["attention_mask"] == 1, given[main], 7)
        filled = pooled(encoder, **given)[1] if name != "Wav2Vec2" else together
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, filled, atol=1e-5, rtol=1e-4)


def test_pooled_without_pooler_is_the_mean_of_unpadded_states():
    class Bare(nn.Module):
        main_input_name = "x"
        config = None

        def forward(self, x, attention_mask=None):
            return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x)

    x = torch.arange(12.0).reshape(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    assert pooled(Bare(), x=x).equal(x.mean(1))
    assert pooled(Bare(), x=x, attention_mask=mask).equal(x[:, :2].mean(1))
    with pytest.raises(
        ValueError, match="attention_mask: expected a step that is not padding, row 0"
    ):
        pooled(Bare(), x=x, attention_mask=mask * 0)
    with pytest.raises(ValueError, match=r"attention_mask: expected \(1, 3\).*Bare.*\(1, 2\)"):
        pooled(Bare(), x=x, attention_mask=mask[:, :2])


def test_outputs_have_transformers_names():
    assert EncoderOutput._fields == ("last_hidden_state", "pooler_output")
    assert not isinstance(nn.Linear(2, 2), Encoder)


def test_a_picture_is_encoded_alone():
    encoder, given = ImageEncoder(), torch.rand(3, 3, 48, 64)
    torch.testing.assert_close(
        encoder.train()(given).pooler_output[1:2], encoder.eval()(given[1:2]).pooler_output
    )


def test_states_of_an_image_go_row_by_row():
    encoder, picture = ImageEncoder(), torch.rand(1, 3, 32, 64)
    maps, hidden = encoder.maps(picture), encoder(picture).last_hidden_state
    assert maps.shape == (1, 128, 4, 8)
    torch.testing.assert_close(hidden[0, 8 * 2 + 5], maps[0, :, 2, 5])


def test_image_encoder_is_small():
    assert 50_000 < sum(each.numel() for each in ImageEncoder().parameters()) < 150_000


def test_a_clip_and_its_reverse_differ():
    encoder, clip = VideoEncoder(), clips(1)["pixel_values"]
    forward, backward = encoder(clip), encoder(clip.flip(1))
    assert (forward.pooler_output - backward.pooler_output).norm() > 0.01
    still = clip[:, :1].expand_as(clip)
    torch.testing.assert_close(encoder(still)[1], encoder(still.flip(1))[1])


def test_a_video_of_one_frame():
    assert VideoEncoder()(torch.rand(2, 1, 3, 64, 64)).last_hidden_state.shape == (2, 1, 128)


def test_mel_filters_peak_in_order_and_cover_the_band():
    mel = mel_filters(64, 1024, 16_000, 4000.0)
    assert mel.shape == (64, 256)
    assert (mel.argmax(1).diff() > 0).all()
    assert (mel.sum(0)[2:240] > 0).all()


def test_a_tone_is_in_its_band():
    encoder = AudioEncoder(sample_rate=8000, top=4000)
    n = torch.arange(8000)
    low, high = (
        encoder.spectrogram(torch.sin(n * f * 2 * torch.pi / 8000)[None]) for f in (300, 2000)
    )
    assert low.shape == high.shape == (1, 64, 32)
    assert low[0, :, 5].argmax() < high[0, :, 5].argmax()


def test_louder_sound_is_louder():
    encoder, wave = AudioEncoder(), torch.randn(1, 4000)
    assert encoder.spectrogram(wave).mean() > encoder.spectrogram(wave / 4).mean() + 0.2


def test_a_waveform_shorter_than_the_window():
    output = AudioEncoder()(torch.randn(2, 5))
    assert output.last_hidden_state.shape == (2, 1, 128)
    assert output.pooler_output.isfinite().all()


def test_a_mask_may_be_of_bools():
    given = sentences()
    encoder = TextEncoder(20)
    as_bool = {**given, "attention_mask": given["attention_mask"].bool()}
    assert pooled(encoder, **given).equal(pooled(encoder, **as_bool))


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (ImageEncoder, {"pixel_values": torch.rand(2, 1, 64, 64)}, "3 channels.*got float32"),
        (ImageEncoder, {"pixel_values": torch.rand(2, 3, 4, 64)}, "sides of at least 8 pixels"),
        (ImageEncoder, {"pixel_values": torch.rand(3, 64, 64)}, "pixel_values: expected Float"),
        (ImageEncoder, {"pixel_values": torch.zeros(2, 3, 64, 64).byte()}, "expected Float"),
        (ImageEncoder, {"pixel_values": torch.rand(0, 3, 64, 64)}, "pixel_values: .*1 picture"),
        (VideoEncoder, {"pixel_values": torch.rand(2, 3, 64, 64)}, "pixel_values: expected Float"),
        (VideoEncoder, {"pixel_values": torch.rand(2, 0, 3, 64, 64)}, "pixel_values: .*no frame"),
        (AudioEncoder, {"input_values": torch.rand(2, 0)}, "input_values: .*1 sample"),
        (
            AudioEncoder,
            {"input_values": torch.rand(2, 9), "attention_mask": torch.ones(2, 8).long()},
            "attention_mask: expected",
        ),
        (
            AudioEncoder,
            {
                "input_values": torch.rand(2, 9),
                "attention_mask": torch.tensor([[0], [1]]).expand(2, 9),
            },
            "attention_mask: expected a step that is not padding, row 0",
        ),
        (
            AudioEncoder,
            {"input_values": torch.rand(1, 3), "attention_mask": torch.tensor([[0, 1, 1]])},
            "attention_mask: expected padding at the end, row 0",
        ),
        (lambda: TextEncoder(9), {"input_ids": torch.ones(2, 0).long()}, "input_ids: .*1 token"),
        (lambda: TextEncoder(9), {"input_ids": torch.tensor([[3, 9]])}, "input_ids: .*0 to 8.*9"),
        (
            lambda: TextEncoder(9),
            {"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.tensor([[0, 1, 1]])},
            "attention_mask: expected padding at the end, row 0",
        ),
    ],
)
def test_inputs_that_do_not_fit(make, inputs, message):
    with pytest.raises(ValueError, match=message):
        make()(**inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AudioEncoder(sample_rate=4000), "top: expected .* 2000.* Hz, got 4000"),
        (lambda: AudioEncoder(bands=400), "bands: .*window"),
        (lambda: AudioEncoder(hop=0.2), "hop: "),
        (lambda: ImageEncoder(width=12), "width: expected a multiple of 8, got 12"),
        (lambda: ImageEncoder(stages=0), "stages: "),
        (lambda: TextEncoder(9, hidden_size=7), "hidden_size: expected an even number, got 7"),
    ],
)
def test_settings_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("encoder", "inputs"),
    [
        (ImageEncoder(), torch.rand(2, 3, 16, 16)),
        (VideoEncoder(), torch.rand(2, 2, 3, 16, 16)),
        (AudioEncoder(), torch.rand(2, 4000)),
    ],
)
def test_inputs_that_are_not_finite_are_refused(encoder, inputs, bad):
    inputs = inputs.clone()
    inputs[1].flatten()[0] = bad
    with pytest.raises(ValueError, match=f"{encoder.main_input_name}: expected finite values"):
        encoder(inputs)


def test_padding_of_a_sound_may_hold_anything():
    encoder, sound = AudioEncoder(), torch.rand(1, 4000)
    mask = torch.ones(1, 4000, dtype=torch.long)
    mask[:, 3000:] = 0
    known = encoder(sound, mask).pooler_output
    sound[:, 3000:] = torch.nan
    torch.testing.assert_close(encoder(sound, mask).pooler_output, known)


def test_sounds_whose_energies_overflow_are_refused():
    with pytest.raises(ValueError, match="input_values: energies: expected finite values"):
        AudioEncoder()(1e25 * torch.rand(1, 4000))


def test_means_of_many_half_precision_states_do_not_lose_count():
    class Many:
        main_input_name = "input_ids"

        def __call__(self, **inputs):
            hidden = torch.full((1, 70_000, 2), 3.0, dtype=torch.float16)
            return type("Output", (), {"last_hidden_state": hidden})

    assert pooled(Many()).tolist() == [[3.0, 3.0]]


def test_pictures_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match=r"pixel_values: expected torch.float32, .* got float64"):
        ImageEncoder()(torch.rand(2, 3, 16, 16).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert ImageEncoder()(torch.rand(2, 3, 16, 16).bfloat16()).pooler_output.isfinite().all()
