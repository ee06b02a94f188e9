"""What every reader of published weights returns: hugging_face.py, cn_clip.py, open_clip.py and library.py."""

from pathlib import Path
from typing import Any, NamedTuple

from tuwen.data.formats.text import Vocabulary
from tuwen.model.state_dict import State

START_PLACE = "params.yaml: baseline.start"  # where the params of the readers stand, for messages


class Published(NamedTuple):
    """A published model in our terms.

    config: of dual_encoder.py. state: its tensors under our names, float32. vocabulary: its tokens in the order
    of their ids, or a library's files. path: the file of the weights, for messages. fresh: names of the tensors
    that it lacks and that are drawn instead.
    """

    config: dict[str, Any]
    state: State
    vocabulary: Vocabulary
    path: Path
    fresh: tuple[str, ...] = ()
