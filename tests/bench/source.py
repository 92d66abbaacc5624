"""Makes the tree that is measured: FOLDER COUNT MEGABYTES.

COUNT text files of 7 kB in the mean, 50 in a folder, and one file of random bytes.
"""

import os
import random
import sys

root, count, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(1)
words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(5000)]
os.makedirs(root)
for n in range(count):
    folder = f"{root}/{n // 3000:03}/{n // 50 % 60:02}"
    if n % 50 == 0:
        os.makedirs(folder, exist_ok=True)
    size = int(random.expovariate(1 / 7000)) + 1
    with open(f"{folder}/file-{n:06}.txt", "wb") as f:
        f.write(b" ".join(random.choices(words, k=size // 6 + 1))[:size])
with open(f"{root}/random.bin", "wb") as f:
    for _ in range(megabytes):
        f.write(random.randbytes(1 << 20))
