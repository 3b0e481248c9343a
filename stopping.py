"""How a run of train.py ends early: Ctrl-C, a signal, an engine or a rank that died.

Exit codes of train.py: 0 it ended, or was stopped and saved; 2 bad input; 3 a loss was not finite; 4 the
engine failed. After 4 the same command with --resume goes on.
"""

import contextlib
import signal
import sys

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

    def __call__(self, signum, frame):
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum
        with contextlib.suppress(OSError):  # after SIGHUP there may be nobody to tell
            print("\nstopping, and saving (Ctrl-C once more: stop at once)", file=sys.stderr)
        if self.sampling:
            self.sampling = False
            raise Interrupted
