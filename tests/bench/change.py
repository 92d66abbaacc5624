"""Changes what is measured. tree FOLDER PERCENT: so many of its files get a line more, spread evenly. image FILE COUNT SEED: overwrites at random."""

import os
import random
import sys

if sys.argv[1] == "tree":
    names = sorted(os.path.join(folder, name) for folder, _, names in os.walk(sys.argv[2]) for name in names)
    files = [name for name in names if os.path.isfile(name) and not os.path.islink(name)]
    for name in files[:: round(100 / float(sys.argv[3]))]:
        with open(name, "ab") as file:
            file.write(b"one line more in " + name.encode(errors="replace") + b"\n")
else:
    random.seed(int(sys.argv[4]))
    with open(sys.argv[2], "r+b") as image:
        blocks = os.path.getsize(sys.argv[2]) // 4096
        for _ in range(int(sys.argv[3])):
            image.seek(random.randrange(blocks) * 4096)
            image.write(random.randbytes(4096))
