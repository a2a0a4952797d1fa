"""Tables of tiny runs, in a folder of their own, to try the chapter with: not results."""
import sys
from modalign.studies.captioning import recording
tiny = dict(examples=64, watched=6, tested=20, epochs=3, min_count=1, max_length=8)
if __name__ == '__main__':
  for d in ("shapes", "flickr8k"):
      recording.record(d, seeds=[0, 1], folder=sys.argv[1], **tiny)
