"""Changes what is measured. tree FOLDER PERCENT: so many of its files get a line more, spread evenly. image FILE COUNT SEED: overwrites at random.
history FOLDER POOL SEED: a day of work. One file in a hundred is edited and one in five hundred deleted, a folder goes and one of the pool comes.
"""

import os
import random
import shutil
import sys


def files_of(root):
    names = sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    return [name for name in names if os.path.isfile(name) and not os.path.islink(name)]


if sys.argv[1] == "tree":
    files = files_of(sys.argv[2])
    for name in files[:: round(100 / float(sys.argv[3]))]:
        with open(name, "ab") as file:
            file.write(b"one line more in " + name.encode(errors="replace") + b"\n")
elif sys.argv[1] == "history":
    root, pool, seed = sys.argv[2], sys.argv[3], int(sys.argv[4])
    random.seed(seed)
    shutil.rmtree(os.path.join(root, random.choice(sorted(os.listdir(root)))))
    coming = random.choice(sorted(os.listdir(pool)))
    os.rename(os.path.join(pool, coming), os.path.join(root, coming))
    files = files_of(root)
    for name in random.sample(files, len(files) // 100):
        with open(name, "r+b") as file:
            file.seek(random.randrange(os.path.getsize(name) + 1))
            file.write(b"edited on day %d: %d\n" % (seed, random.getrandbits(64)))
    for name in random.sample(files, len(files) // 500):
        os.remove(name)
else:
    random.seed(int(sys.argv[4]))
    with open(sys.argv[2], "r+b") as image:
        blocks = os.path.getsize(sys.argv[2]) // 4096
        for _ in range(int(sys.argv[3])):
            image.seek(random.randrange(blocks) * 4096)
            image.write(random.randbytes(4096))
