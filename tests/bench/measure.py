"""Runs a command: NAME COMMAND... Prints NAME and seconds, NAME-cpu and seconds of all processors, NAME-mib and the most memory that one process had."""

import os
import sys
import time

begun = time.monotonic()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, used = os.wait4(child, 0)
print(f"{sys.argv[1]} {time.monotonic() - begun:.4f}")
print(f"{sys.argv[1]}-cpu {used.ru_utime + used.ru_stime:.4f}")
print(f"{sys.argv[1]}-mib {used.ru_maxrss / 1024:.1f}")
sys.exit(os.waitstatus_to_exitcode(status))
