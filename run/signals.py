"""How a run of train.py ends early: Ctrl-C, a signal, an engine or a rank that died.

Exit codes of train.py: 0 it ended, or was stopped and saved; 1 it was interrupted twice, or could not
save; 2 bad input; 3 a loss was not finite; 4 the engine failed. After 4 the same command with --resume
goes on.
"""

import contextlib
import signal
import sys
from collections.abc import Callable

from accelerate.utils import gather_object

from rollout import EngineFailed, Rollout

BAD_INPUT, NOT_FINITE, ENGINE_FAILED = 2, 3, 4


class Interrupted(BaseException):
    """Ends the sampling of a step that is given up. No Exception, so that no engine takes it for its own."""


class StopSignal:
    """Ctrl-C, SIGTERM (the machine is taken away) or SIGHUP (the terminal is gone).

    Obeyed at once while sampling, else after the step. A second Ctrl-C ends the process as it is.
    """

    def __init__(self):
        self.received, self.sampling = 0, False
        signal.signal(signal.SIGINT, self)
        signal.signal(signal.SIGTERM, self)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup has it ignored, and means it
            signal.signal(signal.SIGHUP, self)

    def agreed(self) -> int:
        """The signal that any rank has received by now, 0 if none has; the same on all ranks."""
        return max(gather_object([self.received]))

    def __call__(self, signum, frame):
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum
        with contextlib.suppress(OSError):  # after SIGHUP there may be nobody to tell
            print("\nstopping, and saving (Ctrl-C once more: stop at once)", file=sys.stderr)
        if self.sampling:
            self.sampling = False
            raise Interrupted


def sample_or_stop(
    sample: Callable[[], list[Rollout]], stop: StopSignal, tensor_parallel: int
) -> tuple[list[Rollout], str, bool]:
    """The responses, what an engine of any rank died of, or "", and whether to stop, the same on all ranks.

    A signal that came to any rank stops all of them: this step's sampling is given up.
    """
    rollouts, failure = [], ""
    try:
        # An engine of several ranks waits for all of them, so it is not left in the middle.
        stop.sampling = tensor_parallel == 1 and not stop.received
        if stop.sampling or tensor_parallel > 1:
            rollouts = sample()
        stop.sampling = False
    except Interrupted:
        pass
    except EngineFailed as error:
        stop.sampling = False
        if tensor_parallel > 1:  # ranks that wait within the engine would never hear of it below
            raise
        failure = str(error)
    failures, signals = zip(*gather_object([(failure, stop.received)]), strict=True)
    stopped = any(signals)
    return rollouts, "" if stopped else next(filter(None, failures), ""), stopped
