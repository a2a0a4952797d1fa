"""modalign: four papers on aligning video, image, audio and text, as code a reader can copy."""

__version__ = "0.1.0"
