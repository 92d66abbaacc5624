"""Reads of a file: FILE random COUNT reads 4 KiB at random places and prints the seconds; with FILE forget the kernel lets its copy go."""

import os
import random
import sys
import time

file = os.open(sys.argv[1], os.O_RDONLY)
if sys.argv[2] == "forget":
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
else:
    # Without it a kernel that reads ahead would be measured.
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    random.seed(2)
    start = time.perf_counter()
    blocks = os.fstat(file).st_size // 4096
    for _ in range(int(sys.argv[3])):
        if len(os.pread(file, 4096, random.randrange(blocks) * 4096)) != 4096:
            sys.exit("a read was short")
    print(time.perf_counter() - start)
