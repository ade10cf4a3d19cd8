"""Images of jobs over a data set: few, noted as they are read, and perhaps broken off."""

from rae_jax import build
from rae_jax.data.sources.digits import Digits


class FewDigits:
    """The first digits, which end a job with an error at one of them; notes what is read."""

    classes = tuple("0123456789")

    def __init__(self, count, fail_at=None):
        self.source, self.asked = Digits("train", image_size=48), []
        self.count, self.fail_at = count, fail_at

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.fail_at:
            raise OSError("the disk is gone")
        self.asked.append(index)
        return self.source[index]


def in_place_of_all(monkeypatch, count):
    """Function that puts few digits, as if read anew, in the place of all; gives what is read."""

    def restart(fail_at=None):
        source = FewDigits(count, fail_at)
        monkeypatch.setattr(build, "source", lambda config: source)
        return source.asked

    restart()
    return restart
