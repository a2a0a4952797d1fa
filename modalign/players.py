"""Moving pictures and sound inside a page, with nothing beside it: the bytes are in the HTML."""

import html
import io
from collections.abc import Mapping

import av
import numpy as np
from IPython.display import HTML, Audio, Video
from jaxtyping import Float32, UInt8

from modalign._checks import checked


@checked
def movie(frames: UInt8[np.ndarray, "t h w 3"], *, label: str, fps: int = 8) -> Video:
    """Show a clip with controls, as H.264 in an MP4, which every browser plays.

    Args:
        frames: red, green, blue; height and width even, as the format wants.
        label: what is seen, for readers who do not see it.
        fps: frames a second.

    Raises:
        ValueError: for no frame, an odd height or width, or a rate below 1 or above 1,000.

    >>> clip = movie(np.zeros((4, 16, 16, 3), np.uint8), label="nothing moves")
    >>> clip.mimetype, clip.width
    ('video/mp4', 16)
    """
    t, height, width, _ = frames.shape
    if not t or height % 2 or width % 2 or not height * width:
        raise ValueError(
            f"frames: expected one or more, of even height and width, got {t} of {height} x {width}"
        )
    if not 1 <= fps <= 1000:
        raise ValueError(f"fps: expected 1 to 1,000, got {fps}")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    said = f'controls loop muted playsinline aria-label="{html.escape(label)}"'
    shown = {"mimetype": "video/mp4", "width": width, "height": height, "html_attributes": said}
    return Video(file.getvalue(), embed=True, **shown)


@checked
def sounds(waveforms: Mapping[str, Float32[np.ndarray, "_"]], *, rate: int) -> HTML:
    """Show sounds with controls, each under its name, as they are: nothing is made louder.

    Args:
        waveforms: samples from -1 to 1.
        rate: samples a second.

    Raises:
        ValueError: for no sound, an empty one, one that is not finite or outside [-1, 1], or a
            rate below 1 or above what WAV holds.

    >>> sounds({"silence": np.zeros(8, np.float32)}, rate=8000).data.count("<audio")
    1
    """
    if not waveforms:
        raise ValueError("waveforms: expected one or more, got none")
    if not 1 <= rate < 2**31:  # twice that, bytes a second, is a field of 32 bits
        raise ValueError(f"rate: expected a positive number of samples a second, got {rate}")
    shown = []
    for name, samples in waveforms.items():
        # a NaN compares as false
        if not len(samples) or not abs(samples).max() <= 1:
            raise ValueError(
                f"waveforms[{name!r}]: expected samples from -1 to 1, got {len(samples)} "
                f"up to {abs(samples).max(initial=0):.3g}"
            )
        label = html.escape(name)
        source = Audio(samples, rate=rate, normalize=False).src_attr()
        shown.append(
            f'<p>{label}<br/><audio controls aria-label="{label}" src="{source}"></audio></p>'
        )
    return HTML("".join(shown))
