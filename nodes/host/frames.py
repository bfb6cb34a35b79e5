"""Videos whose frames are the images of a batch: the guide sees each video as one image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Frames:
    """How many images of the batch are the frames of one video; 1 where each image is its own."""

    count: int

    @classmethod
    def of(cls, count, batch):
        """That count where the batch holds whole videos, else 1."""
        return cls(count if count and batch % count == 0 else 1)

    def together(self, x):
        """Images [B, C, ...] as videos [B / count, C, count, ...]."""
        return x if self.count == 1 else x.unflatten(0, (-1, self.count)).movedim(1, 2)

    def apart(self, x):
        """Videos [V, C, count, ...] as images [V * count, C, ...]."""
        return x if self.count == 1 else x.movedim(2, 1).flatten(0, 1)

    def images(self, videos):
        """The places in the batch of the frames of each listed video."""
        if self.count == 1:
            return videos
        return [video * self.count + frame for video in videos for frame in range(self.count)]
