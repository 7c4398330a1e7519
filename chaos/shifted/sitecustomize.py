"""A machine whose clock is wrong: Python reads this at its start, where the folder is on PYTHONPATH."""

import os
import time

_right, _shift_s = time.time, float(os.environ["CHAOS_CLOCK_SHIFT_S"])
time.time = lambda: _right() + _shift_s
