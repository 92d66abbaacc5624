"""Reads of a file: FILE random COUNT: 4 KiB at random places, prints the seconds; FILE forget: the kernel lets its copy go; FILE rate: the whole of it,
prints the seconds until the first bytes and the bytes per second after the first second.
"""

import os
import random
import sys
import time

file = os.open(sys.argv[1], os.O_RDONLY)
start = time.perf_counter()
if sys.argv[2] == "forget":
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
elif sys.argv[2] == "rate":
    total, first, mark = 0, None, None
    while count := len(os.read(file, 1 << 17)):
        total, now = total + count, time.perf_counter() - start
        first = first or now
        if mark is None and now >= 1:
            mark = (now, total)
    if mark is None or mark[1] == total:
        sys.exit("all was read within the first second: take more megabytes")
    print(first, (total - mark[1]) / (now - mark[0]))
else:
    # Without it a kernel that reads ahead would be measured.
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    random.seed(2)
    # What fits into the memory of those who keep what was read.
    blocks = min(os.fstat(file).st_size, 128 << 20) // 4096
    for _ in range(int(sys.argv[3])):
        if len(os.pread(file, 4096, random.randrange(blocks) * 4096)) != 4096:
            sys.exit("a read was short")
    print(time.perf_counter() - start)
